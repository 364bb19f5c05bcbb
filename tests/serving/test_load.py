"""What happens under load: full queues, deadlines, clients that go away, engines that fail."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cd4lm_jax.decoding import slots
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.serving.engine.engine import Engine
from cd4lm_jax.serving.engine.job import Event, Job
from tests.serving.servers import (
    HI,
    ONE_A_PASS,
    Served,
    served,
    slow_passes,
    small_model,
    wait_until,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as found:
        yield found


def test_a_full_queue_says_when_to_come_again() -> None:
    statuses: list[tuple[int, dict[str, str]]] = []
    decode = DecodeConfig(gen_length=32, block_length=16, batch_size=1)
    with slow_passes(0.1), served(decode=decode, queue=2) as server:

        def ask() -> None:
            status, _, headers = server.chat(diffusion=ONE_A_PASS)
            statuses.append((status, headers))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [status for status, _ in statuses]
    assert set(found) == {200, 429}
    assert found.count(200) >= 3
    for status, headers in statuses:
        assert (status == 429) == ("retry-after" in headers)
        assert status != 429 or 1 <= int(headers["retry-after"]) <= 60


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_ends_a_request(stream: bool) -> None:
    with slow_passes(0.1), served(timeout=0.5) as server:
        start = time.monotonic()
        status, answer, _ = server.chat(diffusion=ONE_A_PASS, stream=stream)
        assert time.monotonic() - start < 20
        if stream:
            assert status == 200
            answer = json.loads(answer.strip().split("\n\n")[-1].removeprefix("data: "))
        else:
            assert status == 504
        assert answer["error"]["code"] == "timeout"
        wait_until(lambda: server.engine.busy == 0)


def test_a_cancelled_row_leaves_within_two_segments() -> None:
    engine = Engine(small_model().transformer, slots=4, segment_passes=1)
    reached, segments = threading.Event(), 0

    def sink(event: Event) -> None:
        if getattr(event, "nfe", 0) >= 3:
            reached.set()

    with slow_passes(0.1):
        engine.start()
        config = DecodeConfig(
            gen_length=32,
            block_length=16,
            rule=ConfidenceAdaptive(threshold=1.0, max_tokens=1),
            stop_at_eos=False,
        )
        job = Job(prompt=[7, 8], config=config, sink=sink)
        engine.submit([job])
        assert reached.wait(120)
        engine.cancel([job])
        segments = engine.counters.segments
        wait_until(lambda: engine.busy == 0)
        assert engine.counters.segments - segments <= 2
        engine.stop()
    assert engine.counters.passes < 32


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_slot(stream: bool) -> None:
    decode = DecodeConfig(gen_length=32, block_length=16, batch_size=2, stop_at_eos=False)
    with served(decode=decode, segment_passes=1) as server, slow_passes(0.1):
        body = json.dumps(HI | {"stream": stream, "diffusion": ONE_A_PASS}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as wire:
            wire.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                b"Content-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            wait_until(lambda: server.engine.counters.passes >= 3)
        segments = server.engine.counters.segments
        wait_until(lambda: server.engine.busy == 0)
        # One may be under way when the connection closes and another when that is noticed.
        assert server.engine.counters.segments - segments <= 2
        assert server.engine.counters.passes < 32
        metrics = ""

        def counted() -> bool:
            nonlocal metrics
            metrics = server.ask("/metrics")[1]
            return 'outcome="disconnected"' in metrics

        wait_until(counted)


def test_a_reader_that_stalls_stalls_nobody(server: Served) -> None:
    body = {"n": 16, "stream": True, "temperature": 1.0, "logprobs": True, "diffusion": ONE_A_PASS}
    text = json.dumps(HI | body | {"diffusion": ONE_A_PASS | {"events": True}}).encode()
    wire = socket.socket()
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    with wire:
        wire.connect(("127.0.0.1", server.port))
        wire.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(text), text)
        )
        for _ in range(3):
            assert server.chat()[0] == 200
        wait_until(lambda: server.engine.busy == 0 and server.engine.waiting == 0)


def test_health_says_whether_requests_are_taken() -> None:
    with served() as server:
        assert server.ask("/health/live")[:2] == (200, {"status": "alive"})
        assert server.ask("/health/ready")[:2] == (200, {"status": "ready"})
        service = server.server.service
        service.draining = True
        assert server.ask("/health/ready")[0] == 503
        assert server.chat()[0] == 503
        service.draining = False


def test_an_engine_that_fails_says_so_and_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> Any:
        raise RuntimeError("out of memory")

    with served() as server:
        monkeypatch.setattr(slots, "advance_by", fail)
        status, answer, _ = server.chat()
        assert (status, answer["error"]["type"]) == (503, "server_error")
        assert "memory" not in json.dumps(answer)
        wait_until(lambda: not server.engine.alive)
        assert server.ask("/health/live")[0] == 503
        assert server.chat()[0] == 503
