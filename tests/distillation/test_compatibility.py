"""Tokenizer, student and teacher of one run mean the same by a token id."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest

from cd4lm_jax.checkpoints.model_folder import write_model
from cd4lm_jax.corruption.masking import DiffusionMasks, NestedMasks
from cd4lm_jax.distillation.config import TrainConfig, TrainingError
from cd4lm_jax.distillation.trainer import train
from tests import exported, pens
from tests.tiny import tiny_model

MODEL = exported.config()


@pytest.fixture
def config(tmp_path: pathlib.Path) -> TrainConfig:
    return pens.config(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": MODEL.vocab_size - 1, "mask_id": 7}, "has 505 tokens, the model's vocab"),
        ({"mask_id": 7}, r"the mask token of the tokenizer in .* is \d+, the model's 7; give"),
        ({"eos_id": 7, "end_ids": (8,)}, r"neither of which ends .*\(eos_id 7, end_ids \(8,\)\)"),
    ],
)
def test_a_tokenizer_of_another_model_is_named(
    config: TrainConfig, changes: dict[str, Any], message: str
) -> None:
    other = dataclasses.replace(config, model=dataclasses.replace(pens.MODEL, **changes))
    with pytest.raises(TrainingError, match=message):
        train(other)
    assert not pathlib.Path(config.output).exists()


@pytest.mark.slow
def test_a_padded_vocabulary_fits(config: TrainConfig) -> None:
    padded = dataclasses.replace(pens.MODEL, vocab_size=pens.MODEL.vocab_size + 88)
    assert train(dataclasses.replace(config, model=padded, steps=5)).steps == 5


@pytest.mark.parametrize("name", ["vocab_size", "mask_id"])
def test_a_teacher_of_another_vocabulary_is_named(
    config: TrainConfig, tmp_path: pathlib.Path, name: str
) -> None:
    values = {"vocab_size": MODEL.vocab_size + 8, "mask_id": 7}
    other = dataclasses.replace(MODEL, **{name: values[name]})  # type: ignore[arg-type]
    write_model(tmp_path / "teacher", tiny_model(other))
    run = dataclasses.replace(config, teacher=str(tmp_path / "teacher"), corruption=NestedMasks())
    message = rf"the teacher in .*teacher has {name} {values[name]}, the student"
    with pytest.raises(TrainingError, match=message):
        train(run)


def test_a_scheme_that_would_ignore_its_teacher_is_refused(config: TrainConfig) -> None:
    with pytest.raises(TrainingError, match=r"DiffusionMasks, which has no view for a teacher"):
        dataclasses.replace(config, teacher="folder", corruption=DiffusionMasks())


def test_a_warm_up_beyond_the_run_is_refused(config: TrainConfig) -> None:
    with pytest.raises(TrainingError, match=r"warmup_steps=5 is beyond the run of 4 steps.*most 4"):
        dataclasses.replace(config, steps=4)
    assert dataclasses.replace(config, steps=5).steps == 5


@pytest.mark.parametrize("name", ["micro_batch", "accumulate"])
def test_parts_divide_the_batch(config: TrainConfig, name: str) -> None:
    with pytest.raises(TrainingError, match=rf"{name}=3 does not divide data\.batch_size=4"):
        dataclasses.replace(config, **{name: 3})  # type: ignore[arg-type]


def test_an_unknown_dtype_is_named(config: TrainConfig) -> None:
    with pytest.raises(TrainingError, match=r"teacher_dtype=float33 is unknown; give float32 or"):
        dataclasses.replace(config, teacher_dtype="float33")


@pytest.mark.parametrize("name", ["data", "validation"])
def test_rows_beyond_the_model_are_named(config: TrainConfig, name: str) -> None:
    longer = dataclasses.replace(config.data, max_length=pens.MODEL.max_length + 1)
    message = rf"{name}\.max_length=193 is beyond the 192 positions of the model; give at most 192"
    with pytest.raises(TrainingError, match=message):
        train(dataclasses.replace(config, **{name: longer}))  # type: ignore[arg-type]
