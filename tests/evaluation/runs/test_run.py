from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import cd4lm_jax as cd
from cd4lm_jax.data.conversations import Example
from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.evaluation.runs import run as runs
from cd4lm_jax.evaluation.runs.run import execute
from tests.tiny import tiny_model

TOKENIZER = vocabulary.load()
MODEL = cd.LanguageModel(tiny_model(), TOKENIZER)
PROBLEMS: list[Example] = [
    {"question": "Amy has 5 pens. She buys 3. How many?", "answer": "this makes 5+3=8\n#### 8"},
    {"question": "Amy has 5 pens. She buys 4. How many?", "answer": "this makes 5+4=9\n#### 9"},
]
CONFIG = cd.DecodeConfig(
    rule=cd.ConfidenceAdaptive(threshold=0.9),
    gen_length=32,
    block_length=16,
    eos_gate_ratio=0.5,
    batch_size=2,
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the decoder is asked for; it answers `#### 8` to everything, in 3 and 5 passes."""
    calls: list[dict[str, Any]] = []
    answer = TOKENIZER.encode("so that is 8\n#### 8")
    tokens = [*answer, *[TOKENIZER.eos_id] * (32 - len(answer))]

    def decode(
        model: cd.LanguageModel, prompts: list[list[int]], config: cd.DecodeConfig, *, first: int
    ) -> cd.Decoded:
        calls.append({"prompts": prompts, "config": config, "first": first})
        trajectory = cd.Trajectory(
            tokens=np.array([tokens] * 2),
            committed_at=np.ones((2, 32), np.int32),
            confidence=np.ones((2, 32), np.float32),
            reason=np.ones((2, 32), np.int32),
            nfe=np.array([3, 5]),
            length=np.array([len(answer)] * 2),
        )
        return cd.Decoded(
            trajectory=trajectory, seconds=2.0, tokenizer=model.tokenizer, prompts=prompts
        )

    monkeypatch.setattr(runs, "decode", decode)
    return calls


PROMPTS = [MODEL.prompt_ids(problem["question"]) for problem in PROBLEMS]


def test_a_config_says_all_of_how_it_is_decoded(asked: list[dict[str, Any]]) -> None:
    run = execute(MODEL, "student", PROBLEMS, CONFIG)
    assert (run.name, run.model) == (
        "student confidence:0.9 eos_gate_ratio=0.5",
        "student",
    )
    assert run.config is CONFIG
    assert asked == [{"prompts": PROMPTS, "config": CONFIG, "first": 0}]


def test_a_row_holds_accuracy_and_speed(asked: list[dict[str, Any]]) -> None:
    run = execute(MODEL, "student", PROBLEMS, CONFIG)
    assert run.outputs == ["so that is 8\n#### 8"] * 2
    assert run.correct.tolist() == [True, False]
    assert run.accuracy == 0.5
    row = run.row(baseline_seconds=6.0)
    low, high = row.pop("accuracy_interval")
    assert 0 <= low <= 0.5 <= high <= 1
    length = len(TOKENIZER.encode("so that is 8\n#### 8"))
    assert row == {
        "name": "student confidence:0.9 eos_gate_ratio=0.5",
        "model": "student",
        "rule": "confidence:0.9 eos_gate_ratio=0.5",
        "accuracy": 0.5,
        "nfe": 4.0,
        "tpf": pytest.approx((length / 3 + length / 5) / 2),
        "canvas_tpf": pytest.approx((32 / 3 + 32 / 5) / 2),
        "tps": pytest.approx(length),
        "speedup": 3.0,
        "problems": 2,
    }
    assert "speedup" not in run.row()


def test_what_was_not_measured_in_one_process_is_absent(asked: list[dict[str, Any]]) -> None:
    run = execute(MODEL, "student", PROBLEMS, CONFIG)
    elsewhere = dataclasses.replace(run, process="another")
    assert (run.seconds_of(run), run.seconds_of(elsewhere)) == (2.0, None)
    shared = dataclasses.replace(run, seconds=None)
    assert run.seconds_of(shared) is None
    row = shared.row(baseline_seconds=6.0)
    assert set(run.row(baseline_seconds=6.0)) - set(row) == {"tps", "speedup"}
    assert row["nfe"] == 4.0
