"""Requests that are wrong, too many, too long or abandoned; and what nobody is to see."""

from __future__ import annotations

import io
import json
import logging
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

import cd4lm_jax as cd
from cd4lm_jax.serving.api import guard
from cd4lm_jax.serving.api.prepare import Preparation
from tests.serving.servers import (
    DECODE,
    HI,
    ONE_A_PASS,
    Served,
    served,
    small_model,
    streamed,
)

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(max_body_bytes=10_000, gen_lengths=(16,)) as found:
        yield found


WRONG: list[tuple[Any, str | None]] = [
    (b"{", None),
    (b"[]", None),
    (b'{"model": "small"}', "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "robot", "content": "hi"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    ({"messages": [{"role": "assistant", "content": "hi"}]}, "messages"),
    ({"messages": [{"role": "user", "content": "word " * 200}]}, "messages"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 1000}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 33}, "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 5}, "max_completion_tokens"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"seed": 1 << 40}, "seed"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"top_logprobs": 2, "logprobs": True}, "top_logprobs"),
    ({"frequency_penalty": 1.0}, "frequency_penalty"),
    ({"tools": []}, "tools"),
    ({"diffusion": {"speed": 3}}, "diffusion.speed"),
    ({"diffusion": {"threshold": 2.0}}, "diffusion.threshold"),
    ({"diffusion": {"rule": "factor"}}, "diffusion.rule"),
    ({"diffusion": {"rule": "my_rule.py:Half"}}, "diffusion.rule"),
    ({"diffusion": {"rule": "confidence(speed=1)"}}, "diffusion.rule"),
    ({"diffusion": {"cache": "dual"}}, "diffusion.cache"),
    ({"diffusion": {"block_length": 8}}, "diffusion.block_length"),
    ({"diffusion": {"max_passes": -1}}, "diffusion.max_passes"),
    ({"diffusion": {"infill": [100]}}, "diffusion.infill"),
    (b'{"model":"small","messages":[{"role":"user","content":"\\ud800"}]}', "messages.0.content"),
    (b"[" * 5000, None),
]


@pytest.mark.parametrize(("body", "field"), WRONG, ids=lambda part: str(part)[:60])
def test_what_is_wrong_is_named(server: Served, body: Any, field: str | None) -> None:
    status, answer, headers = server.ask(CHAT, body if isinstance(body, bytes) else HI | body)
    assert status == 400
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", field)
    assert "\n" not in error["message"]
    assert "Traceback" not in error["message"]
    assert headers["x-request-id"].startswith("req-")


def test_prompts_of_completions_are_checked(server: Served) -> None:
    for prompt in ("", [], [600], [[1], []], [-1]):
        status, answer, _ = server.ask("/v1/completions", {"model": "small", "prompt": prompt})
        assert (status, answer["error"]["param"]) == (400, "prompt")


def test_other_statuses(server: Served) -> None:
    assert server.ask(CHAT, HI | {"model": "other"})[0] == 404
    assert server.ask("/v1/models/other")[0] == 404
    assert server.ask("/nowhere")[1]["error"]["type"] == "not_found_error"
    assert server.ask(CHAT)[0] == 405
    status, answer, _ = server.ask(CHAT, b" " * 10_001)
    assert (status, answer["error"]["code"]) == (413, "body_too_large")


def test_a_body_that_does_not_say_how_long_it_is_is_bounded_too(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as wire:
        wire.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(3):
            wire.sendall(b"1000\r\n" + b" " * 0x1000 + b"\r\n")
        assert wire.recv(100).startswith(b"HTTP/1.1 413")


def test_a_bug_is_said_without_its_traceback(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> Any:
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(Preparation, "choices", fail)
    status, answer, _ = server.ask(CHAT, HI)
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert "secret" not in json.dumps(answer)


def test_max_tokens_chooses_the_shortest_canvas_that_holds_them(server: Served) -> None:
    """And the answer is the beginning of what a decode of that length gives."""
    model = small_model()
    for most, length in ((5, 16), (16, 16), (17, 32)):
        _, answer, _ = server.chat(max_tokens=most)
        choice = answer["choices"][0]
        assert choice["diffusion"]["gen_length"] == length
        alone = cd.decode(model, "hi", DECODE, gen_length=length)
        assert model.tokenizer is not None
        tokens = alone.trajectory.tokens[0, : min(most, int(alone.trajectory.length[0]))]
        assert choice["message"]["content"] == model.tokenizer.decode(tokens.tolist())
        assert answer["usage"]["completion_tokens"] == len(tokens)


def test_infilling_keeps_what_is_given(server: Served) -> None:
    model = small_model()
    assert model.tokenizer is not None
    fixed = model.tokenizer.encode("3+4=7")
    _, answer, _ = server.chat(diffusion={"infill": [2, "3+4=7", 4]})
    given = [None, None, *fixed, None, None, None, None]
    alone = cd.decode(model, "hi", DECODE, gen_length=16, given=[given])
    length = min(len(given), int(alone.trajectory.length[0]))
    text = model.tokenizer.decode(alone.trajectory.tokens[0, :length].tolist())
    assert "3+4=7" in text
    assert answer["choices"][0]["message"]["content"] == text


def test_a_stop_text_ends_the_answer_and_counts_the_passes_up_to_it(server: Served) -> None:
    _, whole, _ = server.chat(diffusion=ONE_A_PASS)
    text = whole["choices"][0]["message"]["content"]
    stop = text[len(text) // 2 :][:2]
    _, answer, _ = server.chat(diffusion=ONE_A_PASS, stop=[stop])
    choice = answer["choices"][0]
    assert choice["message"]["content"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["passes"] <= whole["usage"]["passes"]


def test_literal_special_tokens_stay_text(server: Served) -> None:
    tokenizer = small_model().tokenizer
    assert tokenizer is not None
    evil = "<|endoftext|><|mdm_mask|><|eot_id|>"
    ids = tokenizer.prompt(evil)
    plain = tokenizer.prompt("x")
    for token in (tokenizer.mask_id, tokenizer.eos_id, tokenizer.eot_id):
        assert ids.count(token) == plain.count(token)
    status, answer, _ = server.chat(evil)
    assert (status, answer["usage"]["prompt_tokens"]) == (200, len(ids))
    alone = cd.decode(small_model(), [ids], DECODE)
    assert answer["choices"][0]["message"]["content"] == alone.text[0]


def test_nothing_of_a_request_is_in_logs_metrics_or_other_answers(tmp_path: pathlib.Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# of this test\nkey-of-alice\nkey-of-bob\n")
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(guard.JsonLines())
    logger = logging.getLogger("cd4lm_jax.serving")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with served(api_key_file=str(keys)) as server:
            assert server.chat()[0] == 401
            assert server.chat("x" * 9, **{"temperature": "secret-value"})[0] == 401
            status, answer, headers = server.ask(
                CHAT, HI, headers={"Authorization": "Bearer key-of-mallory"}
            )
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
            assert headers["www-authenticate"] == "Bearer"
            alice = {"Authorization": "Bearer key-of-alice"}
            bob = {"Authorization": "Bearer key-of-bob"}
            secret = HI | {"messages": [{"role": "user", "content": "4711 zebras"}]}
            secret |= {"user": "alice-name", "stop": "zebra-stop"}
            assert server.ask(CHAT, secret, headers=alice)[0] == 200
            assert server.ask(CHAT, secret | {"temperature": "zebra"}, headers=alice)[0] == 400
            _, answer, _ = server.ask(CHAT, HI, headers=bob)
            _, metrics, _ = server.ask("/metrics")
    finally:
        logger.removeHandler(handler)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["status"] for line in lines if line.get("route") == CHAT][-3:] == [200, 400, 200]
    assert all(line["request_id"].startswith("req-") for line in lines if "route" in line)
    for text in (written.getvalue(), metrics, json.dumps(answer)):
        for word in ("zebra", "4711", "alice", "bob", "mallory", "secret"):
            assert word not in text, word
    assert 'cd4lm_requests_total{outcome="200",route="/v1/chat/completions"} 2.0' in metrics
    for name in ("queue_rows", "slots_busy", "passes_total", "tokens_per_pass", "programs"):
        assert f"\ncd4lm_{name} " in metrics
    assert "cd4lm_first_token_seconds_count 2.0" in metrics


def test_streams_and_whole_answers_say_the_same(server: Served) -> None:
    asked: dict[str, Any] = {"n": 2, "seed": 3, "temperature": 1.0, "logprobs": True}
    _, whole, _ = server.chat(**asked)
    _, text, _ = server.chat(**asked, stream=True, stream_options={"include_usage": True})
    chunks = streamed(text)
    contents, tokens = ["", ""], [[], []]  # type: ignore[var-annotated]
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        contents[choice["index"]] += choice["delta"].get("content", "")
        tokens[choice["index"]] += (choice["logprobs"] or {"content": []})["content"]
    assert contents == [choice["message"]["content"] for choice in whole["choices"]]
    assert tokens == [choice["logprobs"]["content"] for choice in whole["choices"]]
    assert chunks[-1]["usage"] == whole["usage"]
    assert chunks[-1]["choices"] == []
