"""Steps judged by decoding validation prompts."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest

import cd4lm_jax as cd
from cd4lm_jax.distillation.config import TrainConfig, TrainingError
from cd4lm_jax.distillation.selection import ByDecoding, Point
from cd4lm_jax.distillation.trainer import train
from cd4lm_jax.runtime.metrics import METRICS_FILE, read_jsonl
from tests import pens

DECODE = cd.DecodeConfig(gen_length=16, block_length=8, batch_size=8)
SELECTION = ByDecoding(
    prompts=8, decode=DECODE, thresholds=(0.5, 0.9), judge="number", min_accuracy=0.9
)


def point(accuracy: float, passes: float, threshold: float = 0.9) -> Point:
    return Point(
        threshold=threshold, accuracy=accuracy, passes=passes, tpf=1, exact=0, similarity=0
    )


def ranks(selection: ByDecoding, points: list[Point]) -> list[Point]:
    return sorted(points, key=lambda point: selection.score([point]))


def test_fewest_passes_of_those_that_are_right_enough() -> None:
    worst_first = [point(0.1, 1), point(0.89, 9), point(0.9, 9), point(0.95, 3), point(0.9, 2)]
    assert ranks(SELECTION, worst_first[::-1]) == worst_first
    assert SELECTION.best([point(0.8, 1, 0.5), point(0.95, 4, 0.9)]).threshold == 0.9
    assert SELECTION.best([point(0.8, 1, 0.5), point(0.7, 4, 0.9)]).threshold == 0.5


def test_highest_accuracy_within_the_passes() -> None:
    selection = dataclasses.replace(SELECTION, min_accuracy=None, max_passes=2.0)
    worst_first = [point(1.0, 9), point(0.2, 2.1), point(0.0, 2), point(0.5, 1), point(0.9, 2)]
    assert ranks(selection, worst_first[::-1]) == worst_first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": 0}, "prompts=0"),
        ({"thresholds": ()}, "thresholds is empty"),
        ({"thresholds": (1.5,)}, "threshold"),
        ({"max_passes": 2.0}, "either min_accuracy"),
        ({"min_accuracy": None}, "either min_accuracy"),
        ({"min_accuracy": 99.0}, "min_accuracy=99"),
        ({"min_accuracy": None, "max_passes": 0.5}, "max_passes=0.5"),
        ({"judge": "numbers"}, "judge='numbers'"),
    ],
)
def test_settings_that_mean_nothing(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SELECTION, **changes)


@pytest.mark.slow
def test_a_run_exports_the_step_whose_decodes_are_best(tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(pens.config(tmp_path), selection=SELECTION)
    result = train(config)
    rows = read_jsonl(tmp_path / "run" / METRICS_FILE)
    evaluated = {row["step"]: row for row in rows if "eval/decode/accuracy@0.9" in row}
    assert list(evaluated) == [10, 20, 30]

    def points(row: dict[str, Any]) -> list[Point]:
        names = [field.name for field in dataclasses.fields(Point) if field.name != "threshold"]
        return [
            Point(threshold=at, **{name: row[f"eval/decode/{name}@{at:g}"] for name in names})
            for at in SELECTION.thresholds
        ]

    scores = {step: SELECTION.score(points(row)) for step, row in evaluated.items()}
    assert scores[result.exported_step] == max(scores.values())
    assert result.exported_decodes == SELECTION.best(points(evaluated[result.exported_step]))
    assert scores[30] > scores[10]  # it has learned something

    # What was logged is what the exported folder does.
    model = cd.load(result.folder)
    problems = [json.loads(line) for line in (tmp_path / "pens.jsonl").read_text().splitlines()]
    for at, found in zip(
        SELECTION.thresholds, points(evaluated[result.exported_step]), strict=True
    ):
        rule = cd.ConfidenceAdaptive(threshold=at)
        decoded = cd.decode(
            model,
            [problem["question"] for problem in problems],
            config=dataclasses.replace(DECODE, rule=rule),
        )
        right = [
            text.strip() == problem["answer"]
            for text, problem in zip(decoded.text, problems, strict=True)
        ]
        assert found.exact == np.mean(right)
        assert found.passes == decoded.nfe.mean()
    assert train(config) == result  # continued at its end


@pytest.mark.slow
def test_prompts_that_do_not_fit_are_found_before_the_first_update(tmp_path: pathlib.Path) -> None:
    config = pens.config(tmp_path)
    for changes, message in (
        ({"prompts": 9}, r"selection\.prompts=9, and .*pens\.jsonl .* has 8 rows"),
        ({"decode": dataclasses.replace(DECODE, gen_length=4096)}, r"gen_length=4096 after"),
    ):
        selection = dataclasses.replace(SELECTION, **changes)
        with pytest.raises(TrainingError, match=message):
            train(dataclasses.replace(config, selection=selection))
        assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_on_policy_run_may_stop_early_by_its_decodes() -> None:
    from experiments.configs import gsm_mini_best

    run: TrainConfig = gsm_mini_best.get_config()
    assert not run.ranked
    assert dataclasses.replace(run, selection=SELECTION, patience=3).ranked
