"""The trainer with states and teachers that move with the student."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

from cd4lm_jax.distillation import trainer
from cd4lm_jax.distillation.config import TrainConfig, TrainingError
from cd4lm_jax.distillation.curriculum import Distance
from cd4lm_jax.distillation.divergence import JensenShannon
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.rollout import Rollout
from cd4lm_jax.distillation.trainer import train
from cd4lm_jax.models.lora import LoraConfig
from cd4lm_jax.models.transformer import Execution
from cd4lm_jax.runtime.metrics import read_jsonl
from cd4lm_jax.runtime.progress import Progress
from cd4lm_jax.settings.config import override
from tests import crashes, exported, pens

pytestmark = pytest.mark.slow

STEPS = 12


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A student that learns in its own states from its own average."""
    folder = tmp_path_factory.mktemp("recipes")
    start = exported.export(folder / "start")
    return dataclasses.replace(
        pens.config(folder),
        steps=STEPS,
        model=None,
        tokenizer=None,
        init=start,
        teacher=start,
        average=0.9,
        corruption=Rollout(passes=3, block_length=8, threshold=(0.1, 0.9)),
        objective=Objective(divergence=JensenShannon(), visible="text", confidence=1.0),
        distance=Distance(final=2),
        log_every=1,
        eval_every=6,
        save_every=4,
    )


def metrics_of(config: TrainConfig) -> list[dict[str, float]]:
    return read_jsonl(pathlib.Path(config.output) / "metrics.jsonl")


def test_a_run_that_was_stopped_and_continued_equals_one_that_was_not(
    config: TrainConfig, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config)
    whole = metrics_of(config)
    assert {"kl", "lambda"} < whole[0].keys()
    assert all(np.isfinite(list(row.values())).all() for row in whole)

    class PowerCut(Exception):
        pass

    class UntilPowerCut(Progress):
        def update(self, step: int, terms: Any = None) -> None:
            if step == 10:
                raise PowerCut

    other = dataclasses.replace(config, output=str(tmp_path / "run"))
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(trainer, "Progress", UntilPowerCut)
        train(other)
    train(other)
    # From the checkpoint of step 8, whose average is part of it: the same losses, bit for bit.
    assert metrics_of(other) == whole
    want = crashes.exported(config)
    for name, leaf in crashes.exported(other).items():
        np.testing.assert_array_equal(leaf, want[name], err_msg=name)


@pytest.mark.parametrize("average", [None, 0.9])
@pytest.mark.parametrize("policy", ["student", "teacher"])
def test_adapters_remat_and_parts_go_with_it(
    config: TrainConfig, tmp_path: pathlib.Path, policy: Any, average: float | None
) -> None:
    small = dataclasses.replace(
        config,
        output=str(tmp_path / "run"),
        steps=2,
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=1),
        lora=LoraConfig(rank=2, alpha=4.0),
        average=average,
        accumulate=2,
        corruption=Rollout(policy=policy, passes=2, block_length=8),
        execution=Execution(remat="full"),
        eval_every=2,
    )
    train(small)
    losses = [row["loss"] for row in metrics_of(small) if "loss" in row]
    assert len(losses) == 2
    assert np.isfinite(losses).all()


def test_parts_are_chosen_on_the_command_line(config: TrainConfig) -> None:
    changes = {
        "objective.divergence.kind": "TotalVariation",
        "corruption.passes": "5",
        "average": "none",
        "distance.final": "4",
    }
    found = override(config, changes)
    assert type(found.objective.divergence).__name__ == "TotalVariation"
    assert found.corruption == dataclasses.replace(config.corruption, passes=5)  # type: ignore[arg-type]
    assert (found.average, found.distance.final) == (None, 4)
    assert override(config, {"corruption.kind": "NestedMasks"}).corruption != config.corruption


def test_says_which_teacher_is_missing(config: TrainConfig) -> None:
    with pytest.raises(TrainingError, match=r"average=0\.9 makes the student's average .*: give"):
        dataclasses.replace(config, teacher=None)
    with pytest.raises(
        TrainingError, match=r"corruption\.policy=teacher takes the teacher's passes"
    ):
        dataclasses.replace(
            config, teacher=None, average=None, corruption=Rollout(policy="teacher")
        )
    with pytest.raises(
        TrainingError, match=r"corruption\.tokens=policy leaves the text, and there"
    ):
        dataclasses.replace(config, teacher=None, average=None, corruption=Rollout(tokens="policy"))
