"""Chats to train on: what of a turn is kept, which turns are answers, files of every form."""

from __future__ import annotations

import gzip
import itertools
import json
import pathlib
import sys
from typing import Any

import numpy as np
import pytest

from cd4lm_jax.data.checks import DataError
from cd4lm_jax.data.conversations import RowError, turns
from cd4lm_jax.data.pipeline import DataConfig, OpenData, eval_batches
from cd4lm_jax.data.sources import SourceError, open_source
from cd4lm_jax.data.tokenizer import Tokenizer
from tests.chats import chats, write

# As Qwen3's: reasoning, calls and tools are written, by special tokens of LLaDA's.
TEMPLATE = (
    "{{ bos_token }}{% if tools %}tools: {{ tools | tojson }}<|eot_id|>{% endif %}"
    "{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>"
    "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}"
    "{{ message.content }}{% for call in message.tool_calls or [] %}"
    "[{{ call.function.name }} {{ call.function.arguments | tojson }}]{% endfor %}<|eot_id|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>"
    "{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "add"}}]
CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
WITH_TOOLS = [
    {"role": "system", "content": "Add."},
    {"role": "user", "content": "1+1? <|eot_id|>"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "2", "tool_call_id": "x"},
    {"role": "assistant", "content": "#### 2", "reasoning_content": "now 2"},
]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


@pytest.fixture
def thinking(tokenizer: Tokenizer) -> Tokenizer:
    definition = tokenizer.__reduce__()[1][0]
    return Tokenizer(definition, {**tokenizer.config, "chat_template": TEMPLATE})


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)], ids=["list", "JSON text"])
def test_tools_calls_and_reasoning_are_as_the_template_writes_them(
    tools: object, tmp_path: pathlib.Path, thinking: Tokenizer
) -> None:
    path = write(tmp_path / "rows.jsonl", [{"messages": WITH_TOOLS, "tools": tools}])
    config = DataConfig(source=path, answer_length=24, max_length=256, batch_size=2)
    (batch,) = eval_batches(config, thinking)
    head = '<|startoftext|>tools: [{"type": "function", "function": {"name": "add"}}]<|eot_id|>'
    turn = "<|start_header_id|>{}<|end_header_id|>"
    asked = thinking.encode_rendered(f"{head}{turn.format('system')}Add.<|eot_id|>\n")
    asked += thinking.encode_rendered(turn.format("user"))
    asked += thinking.encode("1+1? <|eot_id|>")  # a user's words are never the token
    asked += thinking.encode_rendered("<|eot_id|>\n" + turn.format("assistant"))
    called = '[add {"a": 1}]<|eot_id|>'
    then = f"{called}\n{turn.format('tool')}2<|eot_id|>\n{turn.format('assistant')}"
    expected = [
        (asked, called),
        (asked + thinking.encode_rendered(then), "<think>now 2</think>#### 2<|eot_id|>"),
    ]
    for row, (prompt, answer) in enumerate(expected):
        trained = batch["answer"][row]
        assert np.flatnonzero(trained)[0] == len(prompt)
        assert batch["tokens"][row][: len(prompt)].tolist() == prompt
        text = thinking.encode_rendered(answer)
        learned = batch["tokens"][row][trained].tolist()
        assert learned == text + [thinking.eos_id] * (24 - len(text))


def test_what_a_template_does_not_write_is_no_answer(
    tmp_path: pathlib.Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "rows.jsonl", [{"messages": WITH_TOOLS}])
    opened = OpenData(DataConfig(source=path, answer_length=24, max_length=256), tokenizer)
    assert (opened.report.counts["taken"], opened.report.counts["empty_answers"]) == (1, 1)
    assert "1 answers skipped, of which the chat template writes nothing" in caplog.text


def test_a_turn_that_begins_otherwise_than_it_is_prompted_for_is_named(
    tmp_path: pathlib.Path, tokenizer: Tokenizer
) -> None:
    definition = tokenizer.__reduce__()[1][0]
    changed = TEMPLATE.replace("assistant<|end_header_id|>", "assistant<|end_header_id|><think>")
    other = Tokenizer(definition, {**tokenizer.config, "chat_template": changed})
    path = write(tmp_path / "rows.jsonl", [{"messages": WITH_TOOLS}])
    message = r"rows\.jsonl, line 1: chat_template begins an assistant's turn otherwise"
    with pytest.raises(DataError, match=message):
        OpenData(DataConfig(source=path, answer_length=24, max_length=256), other)


def test_the_last_turn_alone_and_turns_of_no_weight() -> None:
    row = {"messages": [user("p"), assistant("a"), user("q"), assistant("b")]}
    assert [e["answer"] for e in turns(row).examples] == ["a", "b"]
    (example,) = turns(row, "last").examples
    assert (example["answer"], example["messages"]) == ("b", row["messages"][:3])
    row["messages"][1]["weight"] = 0
    (example,) = turns(row).examples
    assert example["answer"] == "b"
    assert turns(row).skipped == 0


def test_questions_that_nobody_answered() -> None:
    row = {"messages": [user("p"), assistant("a"), user("q")]}
    found = turns(row, unanswered=True).examples
    assert [(e["question"], e["answer"]) for e in found] == [("p", "a"), ("q", "")]
    assert found[1]["messages"] == row["messages"]
    assert turns({"prompt": "p"}, unanswered=True).examples == [{"question": "p", "answer": ""}]
    with pytest.raises(RowError, match='expected a text field "answer"'):
        turns({"question": "p"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tools": 3}, '"tools" is the number 3; expected a list'),
        ({"tools": "{"}, '"tools" is no JSON'),
        ({"messages": [user("p"), assistant("", tool_calls=5)]}, "turn 2 of .*: tool_calls is"),
    ],
)
def test_faulty_tools_are_named(row: dict[str, object], message: str) -> None:
    with pytest.raises(RowError, match=message):
        turns({"messages": [user("p"), assistant("a")]} | row)


@pytest.mark.slow
def test_every_form_of_file_has_the_same_rows(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"messages": chat} for chat in chats(5)]
    rows[1]["messages"][-1]["reasoning_content"] = "so"  # a null elsewhere, in columns
    plain = write(tmp_path / "rows.jsonl", rows)
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(pathlib.Path(plain).read_bytes()))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / "rows.parquet")
    table.save_to_disk(tmp_path / "saved", num_shards=2)
    datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "splits")
    expected = open_source(plain, "train")
    examples = expected.__getitems__(range(len(expected)))
    for name in ("rows.jsonl.gz", "rows.json", "rows.parquet", "saved", "splits"):
        source = open_source(str(tmp_path / name), "train")
        assert source.__getitems__(range(len(source))) == examples, name
    assert open_source(str(tmp_path / "rows.parquet"), "").where(0).endswith("rows.parquet, row 1")
    with pytest.raises(SourceError, match=r"splits has no split 'test': expected one of"):
        open_source(str(tmp_path / "splits"), "test")
    (tmp_path / "bad.parquet").write_bytes(b"PAR")
    with pytest.raises(SourceError, match=r"cannot read .*bad\.parquet"):
        open_source(str(tmp_path / "bad.parquet"), "")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(SourceError, match=r"needs pyarrow, .* `pip install '\.\[data\]'"):
        open_source(str(tmp_path / "rows.parquet"), "")


def files(tmp_path: pathlib.Path) -> list[str]:
    return [
        write(tmp_path / f"{name}.jsonl", [{"question": f"{name} {n}", "answer": "1"} for n in of])
        for name, of in (("many", range(30)), ("few", range(3)))
    ]


def test_several_files_are_joined_or_mixed_by_weight(
    tmp_path: pathlib.Path, tokenizer: Tokenizer
) -> None:
    many, few = files(tmp_path)
    base: dict[str, Any] = {"answer_length": 4, "max_length": 40, "batch_size": 4}
    joined = OpenData(DataConfig(source=f"{many},{few}", **base), tokenizer)
    index = np.concatenate([b["index"] for b in itertools.islice(joined.batches(epochs=1), 8)])
    assert len(set(index.tolist())) == 32  # of 33
    mixed = DataConfig(source=f"{many},{few}", weights=(1.0, 3.0), **base)
    drawn = [
        [batch["index"].tolist() for batch in itertools.islice(made, 20)]
        for made in (OpenData(mixed, tokenizer).batches() for _ in range(2))
    ]
    assert drawn[0] == drawn[1]
    assert sum(place >= 30 for batch in drawn[0] for place in batch) == 60  # of 80
    iterator = iter(OpenData(mixed, tokenizer).batches())
    for _ in range(7):
        next(iterator)
    resumed = iter(OpenData(mixed, tokenizer).batches())
    resumed.set_state(iterator.get_state())
    assert next(resumed)["index"].tolist() == drawn[0][7]
    for weights in ((1.0,), (1.0, 0.0)):
        with pytest.raises(DataError, match="weights"):
            DataConfig(source=f"{many},{few}", weights=weights)


def test_duplicates_and_validation_prompts_are_kept_skipped_or_refused(
    tmp_path: pathlib.Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"question": f"q {n}", "answer": "1"} for n in (0, 1, 1, 2, 3)]
    base: dict[str, Any] = {"answer_length": 4, "max_length": 40, "batch_size": 1}
    data = write(tmp_path / "rows.jsonl", rows)
    validation = DataConfig(source=write(tmp_path / "held.jsonl", rows[3:4]), **base)
    kept = OpenData(DataConfig(source=data, **base), tokenizer, validation).report
    assert (kept.counts["taken"], kept.counts["duplicates"], kept.counts["shared"]) == (5, 1, 1)
    assert "1 of 1 validation rows have a prompt that is trained on" in caplog.text
    assert "1 duplicates kept" in str(kept)
    skipping = DataConfig(source=data, duplicates="skip", **base)
    skipped = OpenData(skipping, tokenizer, validation)
    assert skipped.report.counts["taken"] == 3
    assert "left out: 1 repeated, 1 with a prompt of the validation rows" in str(skipped.report)
    index = [int(batch["index"][0]) for batch in skipped.batches(epochs=1)]
    assert sorted(index) == [0, 1, 4]
    refusing = DataConfig(source=data, duplicates="error", **base)
    with pytest.raises(DataError, match=r"rows\.jsonl, line 3 is there twice; 2 of 5 examples"):
        OpenData(refusing, tokenizer, validation)
    with pytest.raises(DataError, match="every answer was left out"):
        OpenData(
            DataConfig(source=validation.source, duplicates="skip", **base), tokenizer, validation
        )
