"""A server in a process of its own, and clients that keep it busy."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import pathlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Served:
    """A server that runs.

    Attributes:
        port: where it listens on loopback.
        pid: its process.
    """

    port: int
    pid: int

    def resident(self) -> int:
        """Kilobytes of memory that the process holds."""
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0])


@contextlib.contextmanager
def server(*arguments: str) -> Iterator[Served]:
    """`cd4lm serve` of the bundled teacher, once all its programs are compiled."""
    command = [sys.executable, "-m", "launch.serve", "--port=0", "--warmup", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            match = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
            if match is None:
                raise RuntimeError("the server did not start; `cd4lm serve` says why")
            yield Served(int(match[1]), process.pid)
        finally:
            process.terminate()


@dataclasses.dataclass(frozen=True)
class Timed:
    """One answer.

    Attributes:
        text: of the answer.
        tokens: of it.
        passes: that it took.
        first: seconds to its first committed text.
        seconds: to its end.
    """

    text: str
    tokens: int
    passes: int
    first: float
    seconds: float


class Client:
    """One connection, which is kept."""

    def __init__(self, served: Served) -> None:
        self._wire = http.client.HTTPConnection("127.0.0.1", served.port, timeout=300)

    def post(self, body: Any) -> http.client.HTTPResponse:
        """Asks; the answer is still to be read."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        self._wire.request("POST", "/v1/chat/completions", data, headers)
        return self._wire.getresponse()

    def chat(self, question: str, **fields: Any) -> Timed:
        """Asks and reads a stream."""
        start, first, text = time.perf_counter(), 0.0, ""
        usage: dict[str, int] = {}
        answer = self.post(request(question, stream=True, **fields))
        for line in answer:
            data = line.removeprefix(b"data: ").strip()
            if not data or data == b"[DONE]":
                continue
            chunk = json.loads(data)
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                text += choice["delta"].get("content") or ""
                first = first or (time.perf_counter() - start if text else 0.0)
        seconds = time.perf_counter() - start
        return Timed(text, usage["completion_tokens"], usage["passes"], first or seconds, seconds)

    def leave(self, question: str, **fields: Any) -> None:
        """Asks, reads the beginning of the answer and goes away."""
        self.post(request(question, stream=True, **fields)).read(1)
        self._wire.close()

    def close(self) -> None:
        """Ends the connection."""
        self._wire.close()


def request(question: str, **fields: Any) -> dict[str, Any]:
    """A body."""
    body = {"model": "gsm_mini_teacher", "messages": [{"role": "user", "content": question}]}
    if fields.get("stream"):
        fields["stream_options"] = {"include_usage": True}
    return body | fields


def closed_loop(
    served: Served, clients: int, work: Sequence[Any], do: Callable[[Client, Any], Any]
) -> tuple[list[Any], float]:
    """Clients that each do the next piece of work as soon as they have done one.

    Returns:
        What each piece gave, in order, and the seconds of all.
    """
    found: list[Any] = [None] * len(work)
    numbers, lock = iter(range(len(work))), threading.Lock()
    errors: list[BaseException] = []

    def run() -> None:
        client = Client(served)
        try:
            while not errors:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                found[number] = do(client, work[number])
        except BaseException as error:
            errors.append(error)
        finally:
            client.close()

    threads = [threading.Thread(target=run) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return found, time.perf_counter() - start
