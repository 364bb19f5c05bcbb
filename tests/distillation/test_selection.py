"""Which step of a run is exported."""

from __future__ import annotations

import dataclasses
import logging
import math
import pathlib

import numpy as np
import pytest

from cd4lm_jax.corruption.masking import DiffusionMasks, NestedMasks
from cd4lm_jax.distillation.config import TrainConfig, TrainingError
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.rollout import Rollout
from cd4lm_jax.distillation.trainer import train
from experiments.configs import gsm_mini, gsm_mini_best, llada_8b_best
from tests import crashes, exported, pens
from tests.evaluations import scripted

EVAL_EVERY, STEPS = 2, 8


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("selection")
    start = exported.export(folder / "start")
    return dataclasses.replace(
        pens.config(folder),
        steps=STEPS,
        model=None,
        tokenizer=None,
        init=start,
        eval_every=EVAL_EVERY,
    )


def on_policy(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(
        config,
        teacher=config.init,
        corruption=Rollout(tokens="policy", passes=2, block_length=8),
        objective=Objective(entropy_weight=9.0),
    )


def test_an_objective_says_which_losses_rank_steps() -> None:
    objective = Objective()
    assert objective.comparable(NestedMasks(), "frozen") == ("loss", "kl", "ce")
    assert objective.comparable(DiffusionMasks(), "none") == ("loss", "ce")
    assert objective.comparable(NestedMasks(), "average") == ("ce",)
    for teaching in ("none", "frozen", "average"):
        assert objective.comparable(Rollout(), teaching) == ()


def test_no_run_without_comparable_losses_stops_early(config: TrainConfig) -> None:
    message = r"patience=3 stops by validation loss.*\(corruption is a Rollout.*give patience=0"
    with pytest.raises(TrainingError, match=message):
        dataclasses.replace(on_policy(config), patience=3)
    with pytest.raises(TrainingError, match=r"patience=1 .*\(average=0\.9: the teacher changes"):
        dataclasses.replace(
            config, corruption=NestedMasks(), teacher=config.init, average=0.9, patience=1
        )
    for recipe in (gsm_mini_best, llada_8b_best):
        assert not recipe.get_config().ranked
        assert recipe.get_config().patience == 0
    assert gsm_mini.get_config().ranked


@pytest.mark.slow
def test_an_on_policy_run_exports_its_last_step(
    config: TrainConfig, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = dataclasses.replace(on_policy(config), output=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        evaluated = scripted(patch, [1.0, 2.0, math.nan, 3.0])
        result = train(run)
    assert (result.steps, result.exported_step, result.exported_loss) == (STEPS, STEPS, 3.0)
    assert crashes.complete_checkpoints(run) == [6, 8]
    for name, leaf in crashes.exported(run).items():
        np.testing.assert_array_equal(leaf, evaluated[-1][name], err_msg=name)
    assert train(run) == result


def damage(folder: pathlib.Path) -> None:
    """Zeroes the middle of a checkpoint's largest file."""
    largest = max(folder.rglob("*"), key=lambda path: path.stat().st_size)
    data = largest.read_bytes()
    middle = len(data) // 2
    largest.write_bytes(data[:middle] + bytes(1000) + data[middle + 1000 :])


def empty_metrics(folder: pathlib.Path) -> None:
    (folder / "metrics" / "metrics").write_text("")


@pytest.mark.slow
@pytest.mark.parametrize("harm", [damage, empty_metrics])
def test_after_damage_to_the_best_the_next_best_is_exported(
    config: TrainConfig,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    harm: object,
) -> None:
    run = dataclasses.replace(config, output=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        evaluated = scripted(patch, [3.0, 1.0, 2.5, 2.0])
        assert train(run).exported_step == 4
    folder = tmp_path / "run" / "checkpoints"
    assert crashes.complete_checkpoints(run) == [4, 6, 8]
    harm(folder / "4")  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        result = train(run)
    assert "4 is damaged" in caplog.text
    assert (result.exported_step, result.exported_loss) == (8, 2.0)
    assert (folder / "damaged-4").exists()
    for name, leaf in crashes.exported(run).items():
        np.testing.assert_array_equal(leaf, evaluated[-1][name], err_msg=name)
    # It goes on by what is left: a loss above the lost one's may be the best now.
    with monkeypatch.context() as patch:
        scripted(patch, [1.5])
        longer = train(dataclasses.replace(run, steps=10))
    assert (longer.exported_step, longer.exported_loss) == (10, 1.5)
