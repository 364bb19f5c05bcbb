"""Two thousand chats: what is learned of them, packed and not, and what is said of them."""

from __future__ import annotations

import copy
import dataclasses
import json
import pathlib

import numpy as np
import pytest

from cd4lm_jax.data.pipeline import DataConfig, HostBatch, OpenData
from cd4lm_jax.data.tokenizer import Tokenizer
from tests.chats import Chat, chats, write

pytestmark = pytest.mark.slow

ANSWER, LENGTH, PACK = 64, 512, 6


def plain_rows(chat: Chat, tokenizer: Tokenizer) -> list[tuple[list[int], int]]:
    """The rows of a chat as one writes them down: tokens, and how many are the prompt."""
    rows = []
    text = "<|startoftext|>"
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    for turn in chat:
        if turn["role"] == "assistant":
            prompt = tokenizer.encode_rendered(text + header.format("assistant"))
            answer = [*tokenizer.encode(turn["content"]), tokenizer.eot_id]
            tail = [tokenizer.eos_id] * (ANSWER - len(answer))
            rows.append((prompt + answer + tail, len(prompt)))
        text += f"{header.format(turn['role'])}{turn['content']}<|eot_id|>"
    return rows


@pytest.fixture(scope="module")
def rows() -> list[Chat]:
    return chats(2000)


@pytest.fixture(scope="module")
def config(rows: list[Chat], tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    source = write(path, [{"messages": chat} for chat in rows])
    return DataConfig(source=source, answer_length=ANSWER, max_length=LENGTH, batch_size=16)


@pytest.fixture(scope="module")
def packed(config: DataConfig, tokenizer: Tokenizer) -> OpenData:
    return OpenData(dataclasses.replace(config, pack=PACK), tokenizer)


@pytest.fixture(scope="module")
def expected(rows: list[Chat], tokenizer: Tokenizer) -> list[tuple[list[int], int]]:
    return [row for chat in rows for row in plain_rows(chat, tokenizer)]


def check(batch: HostBatch, number: int, tokens: list[int], prompt: int) -> None:
    """A row of a batch, position by position."""
    found = [batch[name][number].tolist() for name in ("tokens", "valid", "answer")]
    for position, (token, valid, answer) in enumerate(zip(*found, strict=True)):
        inside = position < len(tokens)
        assert valid == inside
        assert answer == (inside and position >= prompt)
        assert not inside or token == tokens[position]


def test_loss_is_on_assistant_tokens_alone(
    rows: list[Chat],
    config: DataConfig,
    tokenizer: Tokenizer,
    expected: list[tuple[list[int], int]],
) -> None:
    assert len(expected) > 4000
    assert sum(chat[0]["role"] == "system" for chat in rows) > 500
    seen: list[int] = []
    for batch in OpenData(config, tokenizer).once():
        for number, index in enumerate(batch["index"].tolist()):
            if batch["answer"][number].any():  # the others fill the last batch
                check(batch, number, *expected[index])
                seen.append(index)
    assert seen == list(range(len(expected)))


def test_packed_rows_are_the_same_rows(
    packed: OpenData, expected: list[tuple[list[int], int]]
) -> None:
    seen: list[int] = []
    for batch in packed.once():
        starts = batch["starts"].reshape(-1)
        ends = starts + batch["valid"].sum(axis=1)
        for canvas in range(16):
            held = [n for n in range(canvas * PACK, (canvas + 1) * PACK) if batch["valid"][n].any()]
            # One after the other, without a gap, within the canvas.
            assert starts[held].tolist() == [0, *ends[held][:-1].tolist()]
            assert ends[held][-1] <= LENGTH
        for number in np.flatnonzero(batch["answer"].any(axis=1)).tolist():
            index = int(batch["index"][number])
            check(batch, number, *expected[index])
            seen.append(index)
    assert sorted(seen) == list(range(len(expected)))
    assert len(packed) < 0.6 * len(expected)


def test_the_report_has_the_same_bytes_every_time(
    config: DataConfig, packed: OpenData, tokenizer: Tokenizer
) -> None:
    again = OpenData(dataclasses.replace(config, pack=PACK), tokenizer)
    assert json.dumps(again.report.to_json()) == json.dumps(packed.report.to_json())
    count = packed.report.counts
    assert (count["rows"], count["canvases"]) == (2000, len(packed))


def test_the_report_says_what_is_wrong(
    rows: list[Chat], tmp_path: pathlib.Path, config: DataConfig, tokenizer: Tokenizer
) -> None:
    few = copy.deepcopy(rows[:20])
    few[7] = few[3]  # a duplicate
    few[8].append({"role": "assistant", "content": " "})
    few[9][-1]["content"] = "1" * ANSWER  # too long by one
    source = write(tmp_path / "chats.jsonl", [{"messages": chat} for chat in few])
    report = OpenData(dataclasses.replace(config, source=source, overlong="skip"), tokenizer).report
    count = report.counts
    answers = sum(turn["role"] == "assistant" for chat in few for turn in chat) - 1
    again = sum(turn["role"] == "assistant" for turn in few[3])
    assert (count["rows"], count["answers"], count["taken"]) == (20, answers, answers - 1)
    assert (count["empty_turns"], count["too_long"], count["duplicates"]) == (1, 1, again)
    assert count["answer_tokens"] == ANSWER * (answers - 1)
    assert "left out: 1 empty, 1 too long" in str(report)
    assert f"{again} duplicates kept" in str(report)
