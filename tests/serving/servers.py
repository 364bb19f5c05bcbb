"""Servers of the tests: a small random model with the bundled tokenizer, on a real socket."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is absent")

from cd4lm_jax import bundled
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.decoding import slots
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.language_model import LanguageModel
from cd4lm_jax.serving.engine.engine import Engine
from cd4lm_jax.serving.server import Server
from cd4lm_jax.serving.settings import ServeConfig
from tests.tiny import TINY, tiny_model

SMALL = dataclasses.replace(
    TINY, vocab_size=512, max_length=96, mask_id=2, eos_id=1, end_ids=(1, 5)
)
DECODE = DecodeConfig(gen_length=32, block_length=16, batch_size=4)
HI: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
ONE_A_PASS: dict[str, Any] = {"rule": "confidence(threshold=1.0,max_tokens=1)"}


@functools.cache
def small_model() -> LanguageModel:
    """Random weights that are confident enough to commit several tokens a pass."""
    return LanguageModel(tiny_model(SMALL, sharpness=6.0), Tokenizer.load(bundled.teacher()))


@dataclasses.dataclass
class Served:
    """A server that runs.

    Attributes:
        server: it.
        engine: its engine.
        port: where it listens.
    """

    server: Server
    engine: Engine
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, path: str, body: Any = None, *, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (JSON where it is) and headers of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.closing(connection):
            kind = {"Content-Type": "application/json"}
            connection.request(
                "GET" if data is None else "POST", path, data, kind | (headers or {})
            )
            answer = connection.getresponse()
            raw = answer.read()
            found = {name.lower(): value for name, value in answer.getheaders()}
        if found.get("content-type", "").startswith("application/json"):
            return answer.status, json.loads(raw), found
        return answer.status, raw.decode(), found

    def chat(self, text: str = "hi", **fields: Any) -> tuple[int, Any, dict[str, str]]:
        """Asks one question."""
        messages = [{"role": "user", "content": text}]
        return self.ask("/v1/chat/completions", {"model": "small", "messages": messages, **fields})


def streamed(text: str) -> list[dict[str, Any]]:
    """The chunks of a stream that ended well."""
    *parts, last, empty = text.split("\n\n")
    assert (last, empty) == ("data: [DONE]", "")
    return [json.loads(part.removeprefix("data: ")) for part in parts]


@contextlib.contextmanager
def served(
    model: LanguageModel | None = None, decode: DecodeConfig = DECODE, **config: Any
) -> Iterator[Served]:
    """Serves until the end of the block."""
    server = Server(model or small_model(), decode, ServeConfig(port=0, **config), "small")
    server.listen()
    ready = threading.Event()
    thread = threading.Thread(target=server.run, args=(ready.set,))
    thread.start()
    assert ready.wait(60)
    try:
        yield Served(server, server.engine, server.port)
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()


@contextlib.contextmanager
def slow_passes(seconds: float) -> Iterator[None]:
    """Within it every segment takes at least so long."""
    original = slots.advance_by

    def slowed(*arguments: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return original(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "advance_by", slowed)
        yield


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Fails where it does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
