"""Adapters of a quantised base, which teaches with them off: from start to what peft reads."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from cd4lm_jax.checkpoints import conversion
from cd4lm_jax.checkpoints.loading import load_model, stored_mode
from cd4lm_jax.checkpoints.model_folder import write_model
from cd4lm_jax.corruption.masking import NestedMasks
from cd4lm_jax.distillation import trainer
from cd4lm_jax.distillation.config import TrainConfig, TrainingError
from cd4lm_jax.models.lora import LoraConfig
from cd4lm_jax.models.quantization import dequantize
from cd4lm_jax.runtime.mesh import make_mesh
from cd4lm_jax.runtime.trees import named_leaves
from tests import exported, pens
from tests.tiny import parameters

LORA = LoraConfig(rank=4, alpha=8.0)


def settings(folder: pathlib.Path) -> TrainConfig:
    start = exported.export(folder / "start")
    return dataclasses.replace(
        pens.config(folder),
        model=None,
        tokenizer=None,
        init=start,
        teacher=start,
        corruption=NestedMasks(),
        lora=LORA,
        quantize="int4",
    )


@pytest.mark.slow
def test_trains_adapters_of_a_base_in_four_bits(tmp_path: pathlib.Path) -> None:
    config = settings(tmp_path)
    with jax.set_mesh(make_mesh(config.mesh)):
        run = trainer._Run(config, make_mesh(config.mesh))
        base = run.loaded.base
        assert base is not None
        assert run.loaded.teacher is None
        assert run.program.teacher_is_base
        # What is planned and compiled for is what is loaded.
        planned, loaded = named_leaves(run.program.base), named_leaves(base)
        assert {name: (leaf.shape, leaf.dtype) for name, leaf in planned.items()} == {
            name: (leaf.shape, leaf.dtype) for name, leaf in loaded.items()
        }
        assert loaded["blocks.up.values"].dtype == np.uint8
        before = parameters(base)
        result = run.run()
        assert all(np.array_equal(before[name], leaf) for name, leaf in parameters(base).items())
    lines = pathlib.Path(config.output) / "metrics.jsonl"
    losses = [
        row["eval/loss"]
        for row in map(json.loads, lines.read_text().splitlines())
        if "eval/loss" in row
    ]
    assert losses[-1] < 0.9 * losses[0]
    # The exported model is the base as it was computed with, and adapters on it; peft's files are
    # those adapters.
    found = parameters(load_model(result.folder))
    start = parameters(dequantize(base))
    assert np.array_equal(found["head"], start["head"])
    assert not np.array_equal(found["blocks.up"], start["blocks.up"])
    dense = tmp_path / "dense"
    write_model(dense, dequantize(base))
    adapted = parameters(load_model(pathlib.Path(config.output) / "adapters", base=dense))
    for name, leaf in found.items():
        np.testing.assert_allclose(adapted[name], leaf, rtol=1e-5, atol=1e-6, err_msg=name)


def test_only_what_is_frozen_can_be_quantised(tmp_path: pathlib.Path) -> None:
    config = settings(tmp_path)
    with pytest.raises(TrainingError, match="quantize=int4 is for models that training leaves"):
        dataclasses.replace(config, lora=None, teacher=None)
    with pytest.raises(TrainingError, match="no mode 'int5'; did you mean 'int"):
        dataclasses.replace(config, quantize="int5")  # type: ignore[arg-type]
    conversion.convert(config.init or "", tmp_path / "small", quantize="int8")
    assert stored_mode(tmp_path / "small") == "int8"
    own = dataclasses.replace(
        config, lora=None, init=str(tmp_path / "small"), quantize="none", patience=0
    )
    with (
        jax.set_mesh(make_mesh(own.mesh)),
        pytest.raises(TrainingError, match="integers cannot be trained; give lora"),
    ):
        trainer._Run(own, make_mesh(own.mesh))
