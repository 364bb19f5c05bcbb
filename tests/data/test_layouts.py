from __future__ import annotations

import json
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest

from cd4lm_jax.data.checks import DataError
from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.data.pipeline import DataConfig, eval_batches
from cd4lm_jax.data.tokenizer import Tokenizer


def test_plain_rows_are_question_space_answer(
    json_lines: Callable[..., str], tokenizer: Tokenizer
) -> None:
    """CD4LM's collator: the answer begins after the tokens of the question and its space."""
    rows = [("Ann has 3 pens. How many?", "now 3+1=4\n#### 4"), ("How many?", "5")]
    config = DataConfig(source=json_lines(*rows), layout="plain", max_length=40, batch_size=2)
    (batch,) = eval_batches(config, tokenizer)
    for row, (question, answer) in enumerate(rows):
        tokens = tokenizer.encode(f"{question} {answer}")
        start = len(tokenizer.encode(f"{question} "))
        padding = [tokenizer.eos_id] * (40 - len(tokens))
        assert batch["tokens"][row].tolist() == tokens + padding
        assert np.flatnonzero(batch["answer"][row]).tolist() == list(range(start, len(tokens)))
        assert np.flatnonzero(batch["valid"][row]).tolist() == list(range(len(tokens)))
        assert tokenizer.eot_id not in tokens
    assert not batch["truncated"].any()


def test_plain_rows_begin_as_the_tokenizer_begins_texts(
    json_lines: Callable[..., str], tokenizer: Tokenizer
) -> None:
    definition = json.loads((vocabulary.FOLDER / "tokenizer.json").read_text())
    bos = "<|startoftext|>"
    definition["post_processor"] = {  # LLaDA's
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": bos, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
    }
    llada = Tokenizer(json.dumps(definition), tokenizer.config)
    config = DataConfig(source=json_lines(("q <|mdm_mask|>", "5")), layout="plain", batch_size=1)
    (batch,) = eval_batches(config, llada)
    tokens = [tokenizer.bos_id, *tokenizer.encode("q <|mdm_mask|> 5")]
    assert batch["tokens"][0][batch["valid"][0]].tolist() == tokens
    assert batch["tokens"][0][batch["answer"][0]].tolist() == tokenizer.encode("5")


def test_plain_rows_are_checked_as_a_whole(
    json_lines: Callable[..., str], tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    source = json_lines(("1" * 30, "2" * 8), ("1" * 30, "2" * 20))
    config = DataConfig(source=source, layout="plain", max_length=40, batch_size=1)
    message = r"line 2: its answer has 51 tokens, expected at most 40 with its question to fit"
    with pytest.raises(DataError, match=message):
        list(eval_batches(config, tokenizer))
    cut = DataConfig(source=source, layout="plain", max_length=40, batch_size=2, overlong="cut")
    (batch,) = eval_batches(cut, tokenizer)
    assert batch["answer"].sum(axis=1).tolist() == [8, 9]
    assert batch["valid"].sum(axis=1).tolist() == [39, 40]


@pytest.mark.parametrize("overlong", ["skip", "cut"])
def test_rows_of_a_cut_answer_have_no_end(
    overlong: Literal["skip", "cut"], json_lines: Callable[..., str], tokenizer: Tokenizer
) -> None:
    source = json_lines(("q", "1" * 9), ("q", "2"), ("q", "3" * 7))
    config = DataConfig(
        source=source, answer_length=8, max_length=40, batch_size=3, overlong=overlong
    )
    (batch,) = eval_batches(config, tokenizer)
    answers = [
        row[mask].tolist() for row, mask in zip(batch["tokens"], batch["answer"], strict=True)
    ]
    one, two, three = (tokenizer.encode(digit)[0] for digit in "123")
    eot, eos = tokenizer.eot_id, tokenizer.eos_id
    kept = [[two, eot, *[eos] * 6], [three] * 7 + [eot]]
    assert answers == ([[one] * 8, *kept] if overlong == "cut" else [*kept, []])
    assert batch["index"].tolist() == ([0, 1, 2] if overlong == "cut" else [1, 2, 2])


def test_nothing_left_is_named(json_lines: Callable[..., str], tokenizer: Tokenizer) -> None:
    config = DataConfig(
        source=json_lines(("q", "1" * 9)), answer_length=8, max_length=40, overlong="skip"
    )
    with pytest.raises(DataError, match="every answer is too long, so nothing is left"):
        list(eval_batches(config, tokenizer))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "chta"}, "layout is 'chta': expected one of chat, plain"),
        ({"overlong": "drop"}, "overlong is 'drop': expected one of error, skip, cut"),
        ({"layout": "plain", "max_length": 1}, "max_length is 1: expected at least 2"),
    ],
)
def test_impossible_settings(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DataConfig(**changes)  # type: ignore[arg-type]
