from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import shutil
import signal
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from cd4lm_jax.checkpoints.array_trees import CheckpointError
from cd4lm_jax.checkpoints.model_folder import read_model, write_model
from cd4lm_jax.corruption.masking import NestedMasks
from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.distillation import trainer
from cd4lm_jax.distillation.config import TrainConfig, TrainingError
from cd4lm_jax.distillation.trainer import TrainResult, train
from cd4lm_jax.runtime import files
from cd4lm_jax.runtime.interrupt import Interrupted
from cd4lm_jax.runtime.metrics import read_jsonl
from cd4lm_jax.runtime.progress import Progress
from tests import crashes, pens
from tests.evaluations import scripted
from tests.tiny import model_of, parameters, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_once")]

STEPS = pens.STEPS
MODEL = pens.MODEL


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Eight problems to learn by heart; `output` is a folder that is not there yet."""
    return pens.config(tmp_path_factory.mktemp("train"))


class Finished(NamedTuple):
    config: TrainConfig
    result: TrainResult
    metrics: list[dict[str, float]]


def metrics_of(config: TrainConfig) -> list[dict[str, float]]:
    return read_jsonl(pathlib.Path(config.output) / "metrics.jsonl")


@pytest.fixture(scope="module")
def finished(config: TrainConfig) -> Finished:
    """A run from start to end."""
    return Finished(config, train(config), metrics_of(config))


def elsewhere(config: TrainConfig, folder: pathlib.Path, **changes: Any) -> TrainConfig:
    return dataclasses.replace(config, output=str(folder / "run"), **changes)


def assert_same_parameters(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert got.keys() == want.keys()
    for name, leaf in got.items():
        np.testing.assert_array_equal(leaf, want[name], err_msg=name)


def test_memorises_a_few_problems(finished: Finished) -> None:
    _, result, metrics = finished
    losses = {row["step"]: row["loss"] for row in metrics if "loss" in row}
    scores = {row["step"]: row["eval/loss"] for row in metrics if "eval/loss" in row}
    assert list(losses) == [5, 10, 15, 20, 25, 30]
    assert list(scores) == [10, 20, 30]
    assert scores[30] < 0.5 * scores[10]
    assert losses[30] < 0.5 * losses[5]
    assert result.steps == STEPS
    assert result.exported_loss == min(scores.values()) == scores[result.exported_step]


def test_exports_a_model_folder_with_its_tokenizer(finished: Finished) -> None:
    assert finished.result.folder == pathlib.Path(finished.config.output) / "model"
    assert read_model(finished.result.folder).config == finished.config.model
    assert Tokenizer.load(finished.result.folder).vocab_size == vocabulary.load().vocab_size


def test_a_run_that_was_stopped_and_continued_equals_one_that_was_not(
    finished: Finished, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(Exception):
        pass

    class UntilPowerCut(Progress):
        def update(self, step: int, terms: Any = None) -> None:
            if step == 25:
                raise PowerCut

    config = elsewhere(finished.config, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(trainer, "Progress", UntilPowerCut)
        train(config)
    assert not (tmp_path / "run" / "model").exists()
    result = train(config)

    # From the checkpoint of step 20: step 25, which was written before the cut, is there once.
    assert metrics_of(config) == finished.metrics
    assert result.exported_step == finished.result.exported_step == STEPS
    assert_same_parameters(crashes.exported(config), crashes.exported(finished.config))


def signalled(number: signal.Signals, at: int) -> type[Progress]:
    """Progress in whose update of step `at` the signal arrives."""

    class Signalled(Progress):
        def update(self, step: int, terms: Any = None) -> None:
            if step == at:
                os.kill(os.getpid(), number)

    return Signalled


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_after_the_step_and_the_run_continues(
    finished: Finished,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    config = elsewhere(finished.config, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="step 13 of 30") as stop:
        patch.setattr(trainer, "Progress", signalled(number, at=12))
        train(config)
    assert stop.value.signal == number
    assert crashes.complete_checkpoints(config) == [10, 13]
    assert train(config).exported_step == finished.result.exported_step
    assert_same_parameters(crashes.exported(config), crashes.exported(finished.config))


def test_a_profile_shows_its_steps_and_changes_nothing(
    finished: Finished, tmp_path: pathlib.Path
) -> None:
    config = elsewhere(finished.config, tmp_path)
    train(config, profile=range(12, 15))
    assert metrics_of(config) == finished.metrics
    assert_same_parameters(crashes.exported(config), crashes.exported(finished.config))
    (trace,) = (tmp_path / "run" / "profile").glob("plugins/profile/*/*.xplane.pb")
    steps = [
        dict(event.stats)["step_num"]
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes
        for line in plane.lines
        for event in line.events
        if event.name == "step"
    ]
    assert sorted(map(int, steps)) == [12, 13, 14]


def test_a_damaged_checkpoint_is_passed_over(
    finished: Finished, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = elsewhere(finished.config, tmp_path, save_every=4)
    shutil.copytree(finished.config.output, config.output)
    # Step 30 is the best too: all that the run has lost, it finds again from step 20.
    folder = pathlib.Path(config.output) / "checkpoints"
    largest = max((folder / "30").rglob("*"), key=lambda path: path.stat().st_size)
    data = largest.read_bytes()
    middle = len(data) // 2
    largest.write_bytes(data[:middle] + bytes(1000) + data[middle + 1000 :])
    result = train(config)
    assert "checkpoints/30 is damaged; it is kept as damaged-30" in caplog.text
    assert crashes.complete_checkpoints(config) == [28, 30]
    assert result.exported_step == STEPS
    assert_same_parameters(crashes.exported(config), crashes.exported(finished.config))


def test_a_second_run_in_the_folder_is_refused(config: TrainConfig, tmp_path: pathlib.Path) -> None:
    config = elsewhere(config, tmp_path)
    with files.locked(config.output), pytest.raises(files.InUseError, match="another run works"):
        train(config)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_finished_run_trains_no_more_and_exports_again(finished: Finished) -> None:
    (finished.result.folder / "config.json").unlink()
    assert train(finished.config) == finished.result
    assert metrics_of(finished.config) == finished.metrics
    assert (finished.result.folder / "config.json").is_file()


def test_refuses_the_folder_of_another_run(finished: Finished) -> None:
    other = dataclasses.replace(
        finished.config, seed=1, optimizer=dataclasses.replace(finished.config.optimizer, b2=0.5)
    )
    before = (pathlib.Path(other.output) / "config.json").read_text()
    message = r"step 30 is of a run of other settings \(seed: 0 -> 1; optimizer\.b2: .* -> 0\.5\)"
    with pytest.raises(TrainingError, match=message):
        train(other)
    assert (pathlib.Path(other.output) / "config.json").read_text() == before
    assert metrics_of(other) == finished.metrics


def test_stops_early_and_exports_the_best_checkpoint(
    config: TrainConfig, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scripted(monkeypatch, [3.0, 1.0, math.nan, 2.0])
    config = elsewhere(config, tmp_path, eval_every=2, patience=2)
    result = train(config)
    assert (result.steps, result.exported_step, result.exported_loss) == (8, 4, 1.0)
    for name, leaf in crashes.exported(config).items():
        np.testing.assert_array_equal(leaf, seen[1][name], err_msg=name)
        assert (leaf != seen[3][name]).any()


def test_without_a_finite_evaluation_nothing_is_exported(
    config: TrainConfig, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [math.nan])
    config = elsewhere(config, tmp_path, eval_every=2, patience=1)
    with pytest.raises(TrainingError, match="no sound checkpoint has a finite validation loss"):
        train(config)
    assert not (tmp_path / "run" / "model").exists()


def test_stops_when_the_loss_stays_not_finite(config: TrainConfig, tmp_path: pathlib.Path) -> None:
    leaves = parameters(tiny_model(MODEL))
    leaves["norm"] = np.full_like(leaves["norm"], 3e38)
    write_model(tmp_path / "lost", model_of(MODEL, leaves))
    config = elsewhere(
        config, tmp_path, init=str(tmp_path / "lost"), model=None, log_every=1, max_bad_steps=3
    )
    message = "not finite in 3 updates in a row, up to step 3; start again with a lower"
    with pytest.raises(TrainingError, match=message):
        train(config)
    metrics = metrics_of(config)
    assert [row["bad_steps"] for row in metrics] == [1, 2, 3]
    assert all(math.isnan(row["loss"]) for row in metrics)
    assert not (tmp_path / "run" / "model").exists()


def test_distils_a_teacher(finished: Finished, tmp_path: pathlib.Path) -> None:
    model = str(finished.result.folder)
    config = elsewhere(
        finished.config,
        tmp_path,
        steps=6,
        init=model,
        model=None,
        tokenizer=None,
        teacher=model,
        teacher_dtype="bfloat16",
        corruption=NestedMasks(),
        log_every=1,
    )
    result = train(config)
    updates = [row for row in metrics_of(config) if "loss" in row]
    assert [row["step"] for row in updates] == [1, 2, 3, 4, 5, 6]
    for row in updates:
        lam = float(config.curriculum(int(row["step"]) - 1, 6))
        assert row["lambda"] == pytest.approx(lam, abs=1e-6)
        assert row["kl"] >= 0
        total = lam * row["kl"] + (1 - lam) * row["ce"]
        assert row["loss"] == pytest.approx(total, rel=1e-4)
    assert {"eval/loss", "eval/kl", "eval/ce"} < metrics_of(config)[-1].keys()
    assert read_model(result.folder).config == finished.config.model
    assert Tokenizer.load(result.folder).mask_id == vocabulary.load().mask_id


def test_a_missing_teacher_is_an_error_before_anything_is_written(
    config: TrainConfig, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(CheckpointError, match=r"no model in .*nowhere"):
        nowhere = str(tmp_path / "nowhere")
        train(elsewhere(config, tmp_path, teacher=nowhere, corruption=NestedMasks()))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "folder"}, "give either init .* or model .*, not both"),
        ({"model": None}, "give either init .* or model .* not neither"),
        ({"tokenizer": None}, "a fresh model needs tokenizer"),
        ({"steps": 0}, "steps=0; give 1 or more"),
        ({"eval_every": -1}, "eval_every=-1; give 1 or more"),
        ({"save_every": -1}, "save_every=-1; give 0"),
        ({"patience": -1}, "patience=-1; give 0"),
    ],
)
def test_says_which_settings_do_not_fit(
    config: TrainConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        dataclasses.replace(config, **changes)
