from __future__ import annotations

import codecs
import json
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd4lm_jax.data.conversations import RowError, conversation, turns
from cd4lm_jax.data.pipeline import DataConfig, eval_batches
from cd4lm_jax.data.sources import SourceError, open_source
from cd4lm_jax.data.tokenizer import Tokenizer

CASES = pathlib.Path(__file__).parent.parent / "cases"
SYSTEM = {"role": "system", "content": "Be brief."}


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


ASKED = _user("Amy has 5 pens. How many?")
EXPECTED: dict[str, list[tuple[list[dict[str, str]], str]]] = {
    "messages.jsonl": [
        ([SYSTEM, ASKED], "#### 5"),
        ([SYSTEM, ASKED, _assistant("#### 5"), _user("And if she buys 1?")], "#### 6"),
        ([_user("Hello"), _assistant(""), _user("Amy has 2 pens. How many?")], "#### 2"),
    ],
    "sharegpt.jsonl": [([ASKED], "#### 5")],
    "alpaca.jsonl": [([ASKED], "#### 5")],
    "prompt_completion.jsonl": [([ASKED], "#### 5")],
}


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("name", EXPECTED)
def test_every_assistant_turn_is_an_answer(
    name: str, mark: bytes, tmp_path: pathlib.Path, tokenizer: Tokenizer
) -> None:
    path = tmp_path / name
    path.write_bytes(mark + (CASES / name).read_bytes())
    config = DataConfig(source=str(path), answer_length=8, max_length=160, batch_size=1)
    made = list(eval_batches(config, tokenizer))
    assert len(made) == len(EXPECTED[name])
    for batch, (before, answer) in zip(made, EXPECTED[name], strict=True):
        prompt = tokenizer.encode_rendered(tokenizer.render(before))
        text = [*tokenizer.encode(answer), tokenizer.eot_id]
        trained = np.flatnonzero(batch["answer"][0])
        assert trained.tolist() == list(range(len(prompt), len(prompt) + 8))
        assert batch["tokens"][0][: len(prompt)].tolist() == prompt
        assert batch["tokens"][0][trained][: len(text)].tolist() == text


def test_empty_turns_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    source = open_source(str(CASES / "messages.jsonl"), "train")
    (record,) = caplog.records
    assert "1 assistant turns skipped, without words" in record.message
    assert source.where(2).endswith("messages.jsonl, line 2")


def test_a_slice_is_of_rows_so_no_conversation_is_in_two_splits() -> None:
    path = str(CASES / "messages.jsonl")
    assert len(open_source(path, "train[:1]")) == 2
    assert len(open_source(path, "train[1:]")) == 1


@pytest.mark.parametrize(
    ("row", "before", "answer"),
    [
        ({"question": "q", "answer": 5}, [_user("q")], "5"),
        ({"question": "q", "answer": 0.5}, [_user("q")], "0.5"),
        ({"instruction": "i", "input": "x", "output": "o"}, [_user("i\nx")], "o"),
        ({"instruction": "i", "input": None, "output": "o"}, [_user("i")], "o"),
        (
            {"instruction": "i", "output": "o", "system": "s"},
            [{**SYSTEM, "content": "s"}, _user("i")],
            "o",
        ),
        (
            {"prompt": [_user("p"), _assistant("a"), _user("q")], "completion": "c"},
            [_user("p"), _assistant("a"), _user("q")],
            "c",
        ),
        ({"instruction": "i", "context": "c", "response": "r"}, [_user("i\nc")], "r"),
        ({"prompt": "p", "response": "r"}, [_user("p")], "r"),
        ({"prompt": [SYSTEM, _user("p")], "completion": "c"}, [SYSTEM, _user("p")], "c"),
        ({"prompt": [_user("p")], "completion": [_assistant("c")]}, [_user("p")], "c"),
        (
            {
                "system": "s",
                "conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}],
            },
            [{"role": "system", "content": "s"}, _user("h")],
            "g",
        ),
        (
            {"conversations": [{"role": "User", "content": "h"}, _assistant("g")]},
            [_user("h")],
            "g",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "a"}]},
                    {"role": "assistant", "content": None, "tool_calls": []},
                    {"role": "tool", "content": "7"},
                    _assistant("seven"),
                ]
            },
            [_user("a"), _assistant(""), {"role": "tool", "content": "7"}],
            "seven",
        ),
    ],
)
def test_forms(row: dict[str, Any], before: list[dict[str, str]], answer: str) -> None:
    (example,) = turns(row).examples
    assert conversation(example) == before
    assert example["answer"] == answer


def test_earlier_turns_of_an_alpaca_row_are_answers_too() -> None:
    examples, _ = turns({"instruction": "i", "output": "o", "history": [["a", "b"]]})
    assert [example["answer"] for example in examples] == ["b", "o"]
    assert conversation(examples[1]) == [_user("a"), _assistant("b"), _user("i")]


def test_a_turn_before_any_user_turn_is_context_alone() -> None:
    row = {"messages": [_assistant("Hi!"), _user("q"), _assistant("a")]}
    (example,), skipped = turns(row)
    assert conversation(example) == row["messages"][:2]
    assert skipped == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "expected an object with question and answer, or messages, got a list"),
        ({"question": "q"}, r"expected a text field \"answer\", found \['question'\]"),
        ({"question": "q", "answer": None}, '"answer" is null; expected a text'),
        ({"question": "q", "answer": ["a"]}, '"answer" is a list; expected a text'),
        ({"question": "q", "answer": True}, '"answer" is true; expected a text'),
        ({"messages": []}, 'expected a list of turns "messages", found an empty list'),
        ({"messages": "hi"}, 'expected a list of turns "messages", found a text'),
        ({"messages": [_user("q")]}, "no assistant turn, so nothing to train on"),
        ({"messages": [3]}, "turn 1 of messages: expected an object with role and content"),
        ({"messages": [{"role": "user"}]}, "turn 1 of messages: content is null"),
        ({"messages": [{"content": "x"}]}, r"turn 1 of messages: expected role and content"),
        ({"messages": [{"role": "bot", "content": ""}]}, "role is 'bot'; expected one of system"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "turn 1 of messages: a part of content is 'image_url'; only texts can be read",
        ),
        ({"instruction": "i", "output": "o", "history": ["ab"]}, "pair 1 of history"),
    ],
)
def test_other_rows_are_named_as_what_they_are(row: object, message: str) -> None:
    with pytest.raises(RowError, match=message):
        turns(row)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.just(float("nan")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "type"]), inner)
    ),
    max_leaves=6,
)
FIELDS = ["messages", "conversations", "system", "history", "input", "prompt", "completion"]
FIELDS += ["question", "answer", "instruction", "output"]


@given(row=st.dictionaries(st.sampled_from(FIELDS), ANY) | ANY)
def test_any_row_is_read_or_refused_in_one_line(row: object) -> None:
    try:
        found = turns(row)
    except RowError as error:
        message = str(error)
    else:
        message = ""
        assert found.examples or found.skipped
        assert all(isinstance(example["answer"], str) for example in found.examples)
    assert "\n" not in message
    assert len(message) < 300


def test_a_file_without_any_answer_is_named(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": [_user("q"), _assistant("  ")]}))
    with pytest.raises(SourceError, match="holds no answer: all assistant turns are empty"):
        open_source(str(path), "train")


def test_a_lone_surrogate_is_named_when_the_file_is_opened() -> None:
    with pytest.raises(SourceError, match=r"lone_surrogate\.jsonl, line 1: holds \\ud83d, half"):
        open_source(str(CASES / "lone_surrogate.jsonl"), "train")


def test_overlong_answers_are_named_before_the_first_batch(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    from cd4lm_jax.data.pipeline import batches

    path = CASES / "overlong_answer.jsonl"
    lengths = [
        len(tokenizer.encode(json.loads(line)["answer"])) for line in path.read_text().splitlines()
    ]
    (place,) = [place for place, length in enumerate(lengths) if length > 31]
    settings: dict[str, Any] = {
        "source": str(path),
        "answer_length": 32,
        "max_length": 96,
        "batch_size": 4,
    }
    what = rf"overlong_answer\.jsonl, line {place + 1}: its answer has {lengths[place]} tokens"
    with pytest.raises(ValueError, match=what):
        batches(DataConfig(**settings), tokenizer)
    with caplog.at_level(logging.WARNING):
        made = list(eval_batches(DataConfig(**settings, overlong="skip"), tokenizer))
    index = np.concatenate([batch["index"][batch["answer"].any(axis=1)] for batch in made])
    assert index.tolist() == [row for row in range(len(lengths)) if row != place]
    assert "1 of 24 answers are too long and skipped" in caplog.text
    caplog.clear()
    made = list(eval_batches(DataConfig(**settings, overlong="cut"), tokenizer))
    rows = {int(i): row for b in made for i, row in zip(b["index"], range(4), strict=True)}
    (batch,) = [batch for batch in made if place in batch["index"]]
    cut = batch["tokens"][rows[place]][batch["answer"][rows[place]]]
    assert cut.tolist() == tokenizer.encode(_answer(path, place))[:32]
    assert "1 of 24 answers are too long and cut" in caplog.text


def _answer(path: pathlib.Path, place: int) -> str:
    return str(json.loads(path.read_text().splitlines()[place])["answer"])


def test_training_rows_in_validation_are_said(
    json_lines: Callable[..., str],
    tokenizer: Tokenizer,
    data_dir: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from cd4lm_jax.data import pipeline

    path = json_lines(*((f"q {n}", f"a {n}") for n in range(10)))
    base = {"source": path, "answer_length": 8, "max_length": 40, "batch_size": 2}
    train = DataConfig(**base, split="train[:6]")  # type: ignore[arg-type]
    after = DataConfig(**base, split="train[6:]")  # type: ignore[arg-type]
    pipeline.batches(train, tokenizer, validation=after)
    assert not caplog.records
    across = DataConfig(**base, split="train[4:]")  # type: ignore[arg-type]
    pipeline.batches(train, tokenizer, validation=across)
    (record,) = caplog.records
    assert "2 of 6 validation rows have a prompt that is trained on" in record.message
    assert f"{path}, line 5" in record.message
    caplog.clear()
    generated = {"source": "gsm_mini/distill", "data_dir": data_dir}
    pipeline.batches(
        DataConfig(**generated, split="test[:20]"),  # type: ignore[arg-type]
        tokenizer,
        validation=DataConfig(**generated, split="test[10:30]"),  # type: ignore[arg-type]
    )
    assert "10 of 20 validation rows" in caplog.text


def test_generated_answers_need_no_reading_to_be_checked(
    data_dir: str, tokenizer: Tokenizer
) -> None:
    source = open_source("gsm_mini/distill", "test", data_dir)
    bound = max(map(len, tokenizer.encode_all(source.longest_answers() or [])))
    answers = [example["answer"] for example in source.__getitems__(range(len(source)))]
    assert max(map(len, tokenizer.encode_all(answers))) <= bound < 63
