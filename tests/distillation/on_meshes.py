"""Run by test_meshes.py in a process with eight virtual devices: prints numbers as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from cd4lm_jax.corruption.masking import Corruption
from cd4lm_jax.distillation.curriculum import LambdaCurriculum
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.states import Visited
from cd4lm_jax.distillation.step import Batch, Learner, OptimizerConfig
from cd4lm_jax.model.folder import abstract_model
from cd4lm_jax.model.transformer import Execution, Transformer
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
from cd4lm_jax.runtime.sharding import spec
from tests.models import TINY, parameters, tiny_model

STEPS = 3
EXECUTION = Execution(scan_layers=False)
LEARNER = Learner(
    corruption=Corruption(),
    objective=Objective(),
    curriculum=LambdaCurriculum(),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1),
    total_steps=STEPS,
    seed=0,
)
MOVING = dataclasses.replace(LEARNER, corruption=Visited(block_length=6), average=0.9)


def batch(mesh: Mesh) -> Batch:
    rng = np.random.default_rng(0)
    answer = np.tile(np.arange(18) >= 6, (8, 1))
    rows = Batch(
        tokens=rng.integers(0, 37, (8, 18)).astype(np.int32),  # type: ignore[arg-type]
        valid=np.ones_like(answer),  # type: ignore[arg-type]
        answer=answer,  # type: ignore[arg-type]
        index=np.arange(8, dtype=np.int32) + 10,  # type: ignore[arg-type]
    )
    return jax.device_put(rows, NamedSharding(mesh, spec(("batch",))))


def placed(mesh: Mesh, seed: int) -> Transformer:
    where = jax.tree.map(lambda leaf: leaf.sharding, abstract_model(TINY, EXECUTION, mesh=mesh))
    return jax.device_put(tiny_model(TINY, EXECUTION, seed=seed), where)


def train(mesh: Mesh, learner: Learner) -> dict[str, Any]:
    with jax.set_mesh(mesh):
        rows = batch(mesh)
        student, teacher = placed(mesh, 0), placed(mesh, 1)
        views = jax.jit(learner.views)(student, teacher, rows, jax.random.key(3))
        state = jax.jit(learner.init)(student)
        update, losses = jax.jit(learner.update), []
        for _ in range(STEPS):
            state, metrics = update(state, teacher, rows)
            losses.append([float(metrics[name]) for name in ("loss", "kl", "ce")])
    return {
        "masks": np.packbits(np.stack([views.student, views.teacher])).tolist(),
        "losses": losses,
        "parameters": {
            name: leaf.ravel().tolist() for name, leaf in parameters(state.model).items()
        },
        "split": state.model.blocks.up[...].sharding.shard_shape(state.model.blocks.up.shape),
    }


def main() -> None:
    one = make_mesh(MeshConfig(), jax.devices()[:1])
    eight = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    runs: dict[str, Any] = {}
    for name, learner in (("", LEARNER), ("moving ", MOVING)):
        parts = dataclasses.replace(learner, accumulate=2)
        runs |= {
            f"{name}one": train(one, learner),
            f"{name}eight": train(eight, learner),
            f"{name}eight in parts": train(eight, parts),
        }
    print(json.dumps(runs))


if __name__ == "__main__":
    main()
