"""Training adapters of a frozen base: the trainer from start to exported model."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from cd4lm_jax.checkpoints.model_folder import read_model
from cd4lm_jax.checkpoints.run_checkpoints import RunCheckpoints
from cd4lm_jax.corruption.masking import NestedMasks
from cd4lm_jax.distillation import trainer
from cd4lm_jax.distillation.config import TrainConfig, TrainingError
from cd4lm_jax.distillation.trainer import train
from cd4lm_jax.models import lora
from cd4lm_jax.models.lora import LoraConfig
from cd4lm_jax.runtime.mesh import make_mesh
from cd4lm_jax.runtime.trees import named_leaves
from tests import exported, pens
from tests.tiny import parameters

pytestmark = pytest.mark.slow

LORA = LoraConfig(rank=2, alpha=4.0)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("adapters")
    start = exported.export(folder / "start")
    settings = pens.config(folder)
    return dataclasses.replace(
        settings,
        model=None,
        tokenizer=None,
        init=start,
        teacher=start,
        corruption=NestedMasks(),
        lora=LORA,
    )


def test_trains_adapters_alone_and_exports_an_ordinary_model(config: TrainConfig) -> None:
    before = parameters(read_model(config.init or ""))
    with jax.set_mesh(make_mesh(config.mesh)):
        run = trainer._Run(config, make_mesh(config.mesh))
        # One copy of the weights, on the device too: the base teaches.
        assert run.loaded.teacher is None
        assert run.program.teacher_is_base
        result = run.run()
        # Neither the folder nor what was loaded from it has changed.
        assert run.loaded.base is not None
        for after in (parameters(run.loaded.base), parameters(read_model(config.init or ""))):
            assert all(np.array_equal(after[name], leaf) for name, leaf in before.items())
    names = {name.rpartition(".")[2] for name in named_leaves(run.program.state.model)}
    assert names == {"lora_a", "lora_b"}
    # Rank 2 of widths about 40: the state, moments and all, is a fraction of the base.
    held = sum(leaf.size for leaf in jax.tree.leaves(run.program.state))
    assert held < 0.6 * sum(leaf.size for leaf in before.values())
    checkpoints = RunCheckpoints(pathlib.Path(config.output) / trainer.CHECKPOINTS_FOLDER)
    saved = checkpoints.restore(result.exported_step, named_leaves(run.program.state)).state
    checkpoints.close()
    adapters = {
        name: lora.Adapter(saved[f"model.{name}.lora_a"], saved[f"model.{name}.lora_b"])
        for name in lora.TARGETS
    }
    expected = parameters(lora.merge(LORA, read_model(config.init or ""), adapters))
    for name, leaf in parameters(read_model(result.folder)).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-6, atol=1e-7, err_msg=name)
    changed = [name for name, leaf in expected.items() if not np.array_equal(leaf, before[name])]
    assert changed == [f"blocks.{name}" for name in sorted(lora.TARGETS)]
    # Started again, it goes on from its last checkpoint: there is nothing left to do.
    again = train(config)
    assert again.steps == result.steps == pens.STEPS
    for name, leaf in parameters(read_model(again.folder)).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-6, atol=1e-7, err_msg=name)


def test_a_fresh_model_has_nothing_to_adapt(config: TrainConfig, tmp_path: pathlib.Path) -> None:
    with pytest.raises(TrainingError, match="lora adapts a model that is there: give init"):
        dataclasses.replace(pens.config(tmp_path), lora=LORA)
