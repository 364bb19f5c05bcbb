from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import cd4lm_jax as cd
from cd4lm_jax.data.conversations import Example
from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.evaluation.runs import run as runs
from tests.tiny import tiny_model

TOKENIZER = vocabulary.load()
MODEL = cd.LanguageModel(tiny_model(), TOKENIZER)
PROBLEMS: list[Example] = [
    {"question": "Amy has 5 pens. She buys 3. How many?", "answer": "this makes 5+3=8\n#### 8"},
    {"question": "Amy has 5 pens. She buys 4. How many?", "answer": "this makes 5+4=9\n#### 9"},
]
SETTINGS = runs.DecodeSettings(
    gen_length=32, block_length=16, max_tokens=12, eos_gate_ratio=0.5, batch_size=2
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the decoder is asked for; it answers `#### 8` to everything, in 3 and 5 passes."""
    calls: list[dict[str, Any]] = []
    answer = TOKENIZER.encode("so that is 8\n#### 8")
    tokens = [*answer, *[TOKENIZER.eos_id] * (32 - len(answer))]

    def decode(model: cd.LanguageModel, prompts: list[list[int]], **settings: Any) -> cd.Decoded:
        calls.append({"prompts": prompts, **settings})
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


SHARED = {
    "prompts": [MODEL.prompt_ids(problem["question"]) for problem in PROBLEMS],
    "gen_length": 32,
    "block_length": 16,
    "batch_size": 2,
    "temperature": 0.0,
    "seed": 0,
    "first": 0,
}


@pytest.mark.parametrize(("tokens", "steps"), [(1, 32), (2, 16), (4, 8)])
def test_fixed_step_fills_the_generation_and_knows_no_gate(
    asked: list[dict[str, Any]], tokens: int, steps: int
) -> None:
    run = runs.fixed_step(MODEL, "teacher", PROBLEMS, SETTINGS, tokens)
    assert (run.name, run.model, run.commit) == (
        f"teacher fixed:{tokens}",
        "teacher",
        f"fixed:{tokens}",
    )
    rule = cd.FixedStep(steps=steps)
    assert asked == [SHARED | {"commit": rule, "stop_at_eos": False, "eos_gate_ratio": 0.0}]


def test_confidence_stops_at_the_end_behind_the_gate(asked: list[dict[str, Any]]) -> None:
    run = runs.confidence(MODEL, "student", PROBLEMS, SETTINGS, 0.9)
    assert (run.name, run.model, run.commit) == (
        "student confidence:0.9",
        "student",
        "confidence:0.9",
    )
    rule = cd.ConfidenceAdaptive(threshold=0.9, max_tokens=12)
    assert asked == [SHARED | {"commit": rule, "stop_at_eos": True, "eos_gate_ratio": 0.5}]
    # No more than a block can be committed at once.
    runs.confidence(MODEL, "student", PROBLEMS, runs.DecodeSettings(block_length=16), 0.9)
    assert asked[1]["commit"].max_tokens == 16


def test_a_row_holds_accuracy_and_speed(asked: list[dict[str, Any]]) -> None:
    run = runs.confidence(MODEL, "student", PROBLEMS, SETTINGS, 0.9)
    assert run.outputs == ["so that is 8\n#### 8"] * 2
    assert run.correct.tolist() == [True, False]
    assert run.accuracy == 0.5
    row = run.row(baseline_seconds=6.0)
    low, high = row.pop("accuracy_interval")
    assert 0 <= low <= 0.5 <= high <= 1
    length = len(TOKENIZER.encode("so that is 8\n#### 8"))
    assert row == {
        "name": "student confidence:0.9",
        "model": "student",
        "commit": "confidence:0.9",
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
    run = runs.confidence(MODEL, "student", PROBLEMS, SETTINGS, 0.9)
    elsewhere = dataclasses.replace(run, process="another")
    assert (run.seconds_of(run), run.seconds_of(elsewhere)) == (2.0, None)
    shared = dataclasses.replace(run, seconds=None)
    assert run.seconds_of(shared) is None
    row = shared.row(baseline_seconds=6.0)
    assert set(run.row(baseline_seconds=6.0)) - set(row) == {"tps", "speedup"}
    assert row["nfe"] == 4.0
