"""Processes that serve: what they say, how they end, and that a killed one leaves nothing wrong."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import cd4lm_jax as cd
from cd4lm_jax import bundled
from cd4lm_jax.data.sources import open_source
from tests.conftest import ROOT

pytest.importorskip("fastapi", reason="the extra `serve` is absent")
pytestmark = pytest.mark.slow

QUESTION = "Amy has 5 pens. She buys 3. How many pens now?"


@contextlib.contextmanager
def process(*arguments: str, devices: int = 1) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server on so many virtual devices, and its address."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "launch.serve", "--port=0", "--batch_size=2", *arguments]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as found:
        assert found.stdout is not None
        try:
            line = found.stdout.readline()
            match = re.search(r"serving gsm_mini_teacher at (http://127\.0\.0\.1:\d+)", line)
            assert match is not None, line
            yield found, match[1]
        finally:
            found.kill()


def ask(url: str, question: str = QUESTION) -> Any:
    body = {"model": "gsm_mini_teacher", "messages": [{"role": "user", "content": question}]}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def refused(url: str) -> None:
    """A question whose server is killed."""
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(url)


def test_sigterm_ends_what_is_in_flight_and_leaves_with_0() -> None:
    answers: list[Any] = []
    with process("--drain_timeout=120") as (server, url):
        # The first request has to wait for its program, so it is in flight for seconds.
        thread = threading.Thread(target=lambda: answers.append(ask(url)))
        thread.start()
        while b"cd4lm_slots_busy 1.0" not in urllib.request.urlopen(f"{url}/metrics").read():
            pass
        server.send_signal(signal.SIGTERM)
        thread.join(300)
        _, log = server.communicate(timeout=60)
        assert server.returncode == 0, log
        with pytest.raises(urllib.error.URLError):
            ask(url)
    alone = cd.decode(cd.load(bundled.teacher()), QUESTION, gen_length=64)
    assert [answer["choices"][0]["message"]["content"] for answer in answers] == alone.text
    events = [json.loads(line)["event"] for line in log.splitlines() if line.startswith("{")]
    assert "draining" in events
    assert "Traceback" not in log


def test_a_quantised_model_is_served_from_a_mesh() -> None:
    source = open_source("gsm_mini/distill", "test")
    asked = [source[number]["question"] for number in range(8)]
    flags = ("--mesh.tensor=2", "--quantize=int8", "--cache=dual")
    with process(*flags, devices=2) as (_, url), ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda question: ask(url, question), asked))
    model = cd.load(bundled.teacher(), quantize="int8")
    alone = cd.decode(model, asked, gen_length=64, cache="dual")
    assert [answer["choices"][0]["message"]["content"] for answer in answers] == alone.text
    assert [answer["usage"]["passes"] for answer in answers] == alone.nfe.tolist()


def test_a_killed_server_starts_again(tmp_path: pathlib.Path) -> None:
    cache = f"--compilation_cache={tmp_path / 'programs'}"
    with process(cache) as (server, url):
        thread = threading.Thread(target=lambda: refused(url))
        thread.start()
        while b"cd4lm_slots_busy 1.0" not in urllib.request.urlopen(f"{url}/metrics").read():
            pass
        server.kill()
        server.wait(60)
        thread.join(60)
    with process(cache) as (_, url):
        assert ask(url)["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--queue=0"], "error: queue=0; give 1 or more"),
        (["--gen_lengths=48"], "error: block_length=32 does not divide gen_length=48"),
        (["--gen_length=192"], "error: gen_length=192 leaves no room for a prompt"),
        (["--propose_mask"], "error: propose_mask reproduces published code"),
        (["--api_key_file=nowhere"], "error: nowhere: No such file or directory"),
    ],
)
def test_wrong_settings_are_one_line(flags: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "launch.serve", *flags],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(message)
