"""Run by test_meshes.py in a process with eight virtual devices: prints numbers as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from cd4lm_jax.checkpoints.model_folder import abstract_model
from cd4lm_jax.corruption.masking import NestedMasks
from cd4lm_jax.corruption.views import Batch
from cd4lm_jax.distillation.curriculum import LambdaCurriculum
from cd4lm_jax.distillation.learner import Learner
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.optimizer import OptimizerConfig
from cd4lm_jax.distillation.program import Program
from cd4lm_jax.distillation.rollout import Rollout
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.lora import LoraConfig
from cd4lm_jax.models.transformer import Execution, Transformer
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
from cd4lm_jax.runtime.sharding import spec
from cd4lm_jax.runtime.trees import named_leaves
from tests.tiny import TINY, tiny_model

STEPS = 3
EXECUTION = Execution(scan_layers=False)
LEARNER = Learner(
    corruption=NestedMasks(),
    objective=Objective(),
    curriculum=LambdaCurriculum(),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1),
    total_steps=STEPS,
    seed=0,
)
MOVING = dataclasses.replace(
    LEARNER,
    corruption=Rollout(block_length=6, tokens="policy", reveal_ratio=(0.2, 0.8)),
    average=0.9,
)
ADAPTED = dataclasses.replace(LEARNER, lora=LoraConfig(rank=4))
BLOCKS = dataclasses.replace(TINY, attention="block", block_length=4, blocks="sequence")


def batch(mesh: Mesh, *, packed: bool = False) -> Batch:
    """Eight rows; packed, two of them on each canvas of twice the length."""
    rng = np.random.default_rng(0)
    answer = np.tile(np.arange(18) >= 6, (8, 1))
    rows = Batch(
        tokens=rng.integers(0, 37, (8, 18)).astype(np.int32),  # type: ignore[arg-type]
        valid=np.ones_like(answer),  # type: ignore[arg-type]
        answer=answer,  # type: ignore[arg-type]
        index=np.arange(8, dtype=np.int32) + 10,  # type: ignore[arg-type]
    )
    if packed:
        wide: dict[str, Any] = {
            name: np.pad(getattr(rows, name), ((0, 0), (0, 18)))
            for name in ("tokens", "valid", "answer")
        }
        rows = Batch(
            **wide,
            index=rows.index,
            starts=np.tile(np.array([0, 18], np.int32), (4, 1)),  # type: ignore[arg-type]
        )
    return jax.device_put(rows, NamedSharding(mesh, spec(("batch",))))


def placed(mesh: Mesh, config: ModelConfig, seed: int) -> Transformer:
    where = jax.tree.map(lambda leaf: leaf.sharding, abstract_model(config, EXECUTION, mesh=mesh))
    return jax.device_put(tiny_model(config, EXECUTION, seed=seed), where)


def train(
    mesh: Mesh, learner: Learner, config: ModelConfig, *, packed: bool = False
) -> dict[str, Any]:
    """A few updates by the program that the trainer runs."""
    program = Program.of(learner, config, mesh, execution=EXECUTION)
    with jax.set_mesh(mesh):
        rows = batch(mesh, packed=packed)
        model, teacher, losses = placed(mesh, config, 0), placed(mesh, config, 1), []
        views = jax.jit(learner.views)(model, teacher, rows, jax.random.key(3))
        base = None if learner.lora is None else placed(mesh, config, 0)
        state = program.create(model)
        for _ in range(STEPS):
            state, metrics = program.update(state, teacher, rows, base)
            losses.append([float(metrics[name]) for name in ("loss", "kl", "ce")])
    leaves = named_leaves(state.model)
    return {
        "shown": np.asarray(views.tokens).tolist(),
        "masks": np.packbits(np.stack([views.student, views.teacher])).tolist(),
        "losses": losses,
        "parameters": {name: np.asarray(leaf).ravel().tolist() for name, leaf in leaves.items()},
        "split": {name: leaf.sharding.shard_shape(leaf.shape) for name, leaf in leaves.items()},
    }


def main() -> None:
    one = make_mesh(MeshConfig(), jax.devices()[:1])
    eight = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    runs: dict[str, Any] = {}
    for name, learner, config in (
        ("", LEARNER, TINY),
        ("moving ", MOVING, TINY),
        ("adapted, by blocks, ", ADAPTED, BLOCKS),
    ):
        parts = dataclasses.replace(learner, accumulate=2)
        runs |= {
            f"{name}one": train(one, learner, config),
            f"{name}eight": train(eight, learner, config),
            f"{name}eight in parts": train(eight, parts, config),
        }
    runs["packed eight"] = train(eight, LEARNER, TINY, packed=True)
    print(json.dumps(runs))


if __name__ == "__main__":
    main()
