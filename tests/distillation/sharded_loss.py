"""Run by test_meshes.py in a process with eight virtual devices: the loss alone, as JSON.

The vocabulary lies over `tensor`, the kernels' width over `fsdp`, positions over `data` and `fsdp`.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from cd4lm_jax.distillation import loss as losses
from cd4lm_jax.distillation import projection
from cd4lm_jax.distillation.divergence import (
    ForwardKL,
    JensenShannon,
    ReverseKL,
    TotalVariation,
)
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.projection import HiddenStates
from cd4lm_jax.distillation.proposals import proposals
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
from cd4lm_jax.runtime.sharding import spec

TOKENS, WIDTH, VOCAB, MASK = 64, 24, 1024, 3
OBJECTIVES = [
    Objective(divergence=ForwardKL(), entropy_weight=0.5, visible="text"),
    Objective(divergence=ReverseKL(), confidence=1.0),
    Objective(divergence=JensenShannon()),
    Objective(divergence=TotalVariation()),
]


def arguments() -> tuple[Any, ...]:
    rng = np.random.default_rng(0)

    def states() -> HiddenStates:
        hidden = rng.standard_normal((TOKENS, WIDTH), np.float32)
        return HiddenStates(hidden, rng.standard_normal((WIDTH, VOCAB), np.float32))  # type: ignore[arg-type]

    # The first positions have no weight, so that devices have unlike numbers of them to compute.
    weight = np.where(np.arange(TOKENS) >= 20, rng.random(TOKENS), 0).astype(np.float32)
    targets = rng.integers(0, VOCAB, TOKENS)
    guessed = rng.random(TOKENS) < 0.5
    return states(), states(), targets, weight, np.float32(0.7), guessed


def loss(student: HiddenStates, teacher: HiddenStates, *rest: Any) -> Any:
    """All objectives in unlike shares; each one's terms, and what the student proposes."""
    terms = [losses.loss(objective, student, teacher, *rest) for objective in OBJECTIVES]
    proposed = proposals(student, rest[-1], MASK)
    total = sum((n + 1) * each.total for n, each in enumerate(terms))
    return total, (terms, proposed)


def run(mesh: Mesh) -> dict[str, Any]:
    place = functools.partial(NamedSharding, mesh)
    states = HiddenStates(place(spec(("batch",))), place(spec(("embed", "vocab"))))  # type: ignore[arg-type]
    row = place(spec(("batch",)))
    where = (states, states, row, row, place(spec(())), row)
    with jax.set_mesh(mesh):
        placed = jax.tree.map(jax.device_put, arguments(), where)
        graded = jax.jit(jax.value_and_grad(loss, has_aux=True), out_shardings=(None, states))
        compiled = graded.lower(*placed).compile()
        results = compiled(*placed)
    leaves = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(results)]
    return {"leaves": leaves, "gathered": gathered(compiled.as_text() or "")}


def gathered(hlo: str) -> list[str]:
    """The result types of the collectives that bring parts together: gathers and exchanges."""
    found = re.findall(r"= (.*?) (?:all-gather|all-to-all|collective-permute)(?:-start)?\(", hlo)
    return [str(kind) for kind in found]


def main() -> None:
    meshes = {
        "one": MeshConfig(),
        "tensor": MeshConfig(tensor=8),
        "data and tensor": MeshConfig(data=2, tensor=4),
        "all": MeshConfig(data=2, fsdp=2, tensor=2),
        "fsdp": MeshConfig(fsdp=8),
    }
    print(json.dumps({name: run(make_mesh(mesh)) for name, mesh in meshes.items()}))


if __name__ == "__main__":
    # Chunks smaller than a device's positions, so that it loops.
    projection.MAX_CHUNK = 6
    main()
