"""What may change between two starts of a run."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from typing import Any

import pytest

from cd4lm_jax.corruption.masking import NestedMasks
from cd4lm_jax.distillation import resume
from cd4lm_jax.distillation.config import TrainConfig, TrainingError
from cd4lm_jax.distillation.trainer import train
from cd4lm_jax.models.lora import LoraConfig
from cd4lm_jax.models.transformer import Execution
from cd4lm_jax.runtime.mesh import MeshConfig
from cd4lm_jax.runtime.metrics import read_jsonl
from cd4lm_jax.settings.config import to_plain
from tests import exported, pens


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return dataclasses.replace(pens.config(tmp_path_factory.mktemp("resume")), steps=10)


def with_rate(config: TrainConfig, rate: float) -> TrainConfig:
    optimizer = dataclasses.replace(config.optimizer, learning_rate=rate)
    return dataclasses.replace(config, optimizer=optimizer)


def test_what_changes_no_numbers_may_change(config: TrainConfig) -> None:
    other = dataclasses.replace(
        config,
        output="elsewhere",
        mesh=MeshConfig(fsdp=2),
        execution=dataclasses.replace(config.execution, scan_layers=True, remat="full"),
        accumulate=2,
        log_every=1,
        eval_every=7,
        save_every=3,
        patience=2,
        max_bad_steps=99,
    )
    assert resume.check_settings(to_plain(config), other, 5) == []


def test_what_changes_the_numbers_to_come_is_said(config: TrainConfig) -> None:
    other = dataclasses.replace(with_rate(config, 1e-3), steps=20)
    notes = resume.check_settings(to_plain(config), other, 5)
    assert len(notes) == 2
    assert "continued from step 5 with steps 10 -> 20: lambda, the teacher's distance" in notes[0]
    assert "optimizer.learning_rate 0.01 -> 0.001" in notes[1]


def test_what_changes_the_numbers_is_refused_with_a_list(config: TrainConfig) -> None:
    other = dataclasses.replace(
        config,
        seed=1,
        optimizer=dataclasses.replace(config.optimizer, b2=0.5, warmup="logarithmic"),
        execution=Execution(dtype="bfloat16", scan_layers=False),
        corruption=NestedMasks(),
    )
    with pytest.raises(TrainingError) as error:
        resume.check_settings(to_plain(config), other, 5)
    message = str(error.value)
    for part in (
        "the checkpoint of step 5 is of a run of other settings",
        "seed: 0 -> 1",
        "optimizer.b2: 0.999 -> 0.5",
        "optimizer.warmup: linear -> logarithmic",
        "corruption.kind: DiffusionMasks -> NestedMasks",
        "corruption.weighting: mean -> absent",
        " more); give those again, give another output than ",
    ):
        assert part in message
    lora = dataclasses.replace(config, model=None, init="folder", lora=LoraConfig())
    with pytest.raises(TrainingError, match=r"lora\.rank: absent -> 16"):
        resume.check_settings(to_plain(dataclasses.replace(lora, lora=None)), lora, 5)


def test_a_field_that_the_saved_run_lacks_has_its_default(config: TrainConfig) -> None:
    saved = to_plain(config)
    del saved["micro_batch"], saved["optimizer"]["warmup"]
    assert resume.check_settings(saved, config, 5) == []
    with pytest.raises(TrainingError, match="micro_batch: 0 -> 2"):
        resume.check_settings(saved, dataclasses.replace(config, micro_batch=2), 5)


def test_a_run_of_a_version_with_other_names_is_refused(config: TrainConfig) -> None:
    saved = to_plain(config) | {"certain": 1}
    with pytest.raises(TrainingError, match=r"another version is there \(no field 'certain' in"):
        resume.check_settings(saved, config, 5)


@pytest.mark.slow
def test_a_diverged_run_continues_with_the_advice(
    config: TrainConfig, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = dataclasses.replace(config, output=str(tmp_path / "run"), log_every=1, eval_every=5)
    train(run)
    lower = dataclasses.replace(with_rate(run, 1e-3), steps=12, max_bad_steps=3, eval_every=4)
    assert train(lower).steps == 12
    assert "continued from step 10 with optimizer.learning_rate 0.01 -> 0.001" in caplog.text
    assert "with steps 10 -> 12: lambda" in caplog.text
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    found = {row["step"]: row["learning_rate"] for row in rows if "learning_rate" in row}
    assert (found[10], found[11]) == pytest.approx((1e-2, 1e-3))


@pytest.mark.slow
@pytest.mark.parametrize("role", ["teacher", "base"])
def test_a_model_that_changed_is_named(
    config: TrainConfig, tmp_path: pathlib.Path, role: str
) -> None:
    start, other = (exported.export(tmp_path / name, seed=n) for n, name in enumerate("ab"))
    changes: dict[str, Any] = {"teacher": other}
    if role == "base":
        changes = {"lora": LoraConfig(rank=2)}
    run = dataclasses.replace(
        config,
        output=str(tmp_path / "run"),
        steps=5,
        model=None,
        tokenizer=None,
        init=start,
        corruption=NestedMasks(),
        **changes,
    )
    train(run)
    changed = other if role == "teacher" else start
    shutil.rmtree(changed)
    exported.export(pathlib.Path(changed), seed=7)
    with pytest.raises(TrainingError, match=rf"the {role} in {changed} is not the one that this"):
        train(dataclasses.replace(run, steps=8))
