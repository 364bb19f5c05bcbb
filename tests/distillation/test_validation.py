"""The validation loss does not depend on how the split is batched."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import pytest

from cd4lm_jax.corruption.masking import DiffusionMasks, IndependentMasks, NestedMasks
from cd4lm_jax.corruption.views import States
from cd4lm_jax.data.pipeline import DataConfig, OpenData
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.evaluator import Evaluator
from cd4lm_jax.distillation.loading import Loaded
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.rollout import Rollout
from cd4lm_jax.models.transformer import Execution
from cd4lm_jax.runtime.mesh import make_mesh
from tests import exported

pytestmark = pytest.mark.slow

ROWS = pathlib.Path(__file__).parents[1] / "cases" / "ragged_validation.jsonl"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return exported.export(tmp_path_factory.mktemp("models") / "start")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return exported.export(tmp_path_factory.mktemp("models") / "teacher", seed=1)


@pytest.mark.parametrize(
    ("states", "objective"),
    [
        (NestedMasks(), Objective(entropy_weight=1.0)),
        (NestedMasks(), Objective(visible="text")),
        (IndependentMasks(), Objective()),
        (DiffusionMasks(weighting="mean"), Objective()),
        (DiffusionMasks(weighting="elbo"), Objective()),
        (Rollout(block_length=8), Objective()),
    ],
    ids=str,
)
def test_it_does_not_depend_on_the_batch_size(
    states: States, objective: Objective, model: str, teacher: str, tmp_path: pathlib.Path
) -> None:
    data = DataConfig(source=str(ROWS), answer_length=64, max_length=128, batch_size=12)
    found = []
    for rows in (12, 5, 1):
        config = TrainConfig(
            output=str(tmp_path),
            steps=200,
            init=model,
            teacher=teacher if states.teaches else None,
            corruption=states,  # type: ignore[arg-type]
            objective=objective,
            data=data,
            validation=dataclasses.replace(data, batch_size=rows),
            execution=Execution(scan_layers=False),
        )
        mesh = make_mesh(config.mesh)
        with jax.set_mesh(mesh):
            loaded = Loaded(config, mesh)
            split = OpenData(config.validation, loaded.tokenizer)
            evaluate = Evaluator(config, loaded, mesh, split)
            found.append(evaluate(loaded.initial_model()).losses)
    whole, *parts = found
    for part in parts:
        assert part == pytest.approx(whole, rel=1e-4)
