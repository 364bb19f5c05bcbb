"""What each device computes and sends in one training update, by mesh, beside the ideal.

    python -m experiments.benchmarks.scaling

Metric: `worst_flop_deviation`, the greatest relative excess of a device's FLOPs over one n-th of
those of a single device. Nothing runs: the real update (student, teacher, loss, AdamW) is compiled
for meshes of up to eight virtual CPU devices and read from its HLO. XLA counts the body of a loop
once; layers are unrolled for that, and sizes chosen so that the loss takes one chunk a device.

Bytes sent are those of ring algorithms. Their ideal: the gradient reduced over `data`; over `fsdp`
student and teacher gathered once (nothing is computed again) and the gradient scattered; over
`tensor` two sums a layer and pass, one at each embedding and one at the loss.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import sys
from typing import Any

import jax
from absl import app

from cd4lm_jax.corruption.masking import NestedMasks
from cd4lm_jax.distillation.curriculum import LambdaCurriculum
from cd4lm_jax.distillation.learner import Learner
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.optimizer import OptimizerConfig
from cd4lm_jax.distillation.program import Program
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.transformer import Execution
from cd4lm_jax.planning import costs
from cd4lm_jax.runtime.mesh import AXES, MeshConfig, make_mesh
from experiments.benchmarks import results

DEVICES = 8
ROWS, LENGTH = 16, 64
MODEL = ModelConfig(
    vocab_size=8192,
    embed_dim=256,
    num_layers=4,
    num_heads=8,
    num_kv_heads=8,
    head_dim=32,
    mlp_dim=768,
    max_length=LENGTH,
    rope_theta=10_000.0,
    mask_id=8191,
    eos_id=8190,
    end_ids=(8190,),
)
LEARNER = Learner(
    corruption=NestedMasks(),
    objective=Objective(),
    curriculum=LambdaCurriculum(),
    optimizer=OptimizerConfig(),
    total_steps=100,
    seed=0,
)


def meshes() -> list[MeshConfig]:
    """Every mesh of 1, 2, 4 or 8 devices whose axes are powers of two."""
    shapes = itertools.product((1, 2, 4, 8), repeat=len(AXES))
    known = (dict(zip(AXES, shape, strict=True)) for shape in shapes if math.prod(shape) <= DEVICES)
    return sorted((MeshConfig(**sizes) for sizes in known), key=device_count)


def device_count(mesh: MeshConfig) -> int:
    """Devices of a mesh."""
    return mesh.data * mesh.fsdp * mesh.tensor


def compiled_update(config: MeshConfig) -> Any:
    """The training update as XLA compiled it for this mesh."""
    execution = Execution(scan_layers=False)
    program = Program.of(LEARNER, MODEL, make_mesh(config), execution=execution)
    return program.lower(ROWS, LENGTH).compile()


def ideal_bytes(mesh: MeshConfig) -> float:
    """Bytes that one device has to send in an update (see the module's docstring)."""
    parameters = 4 * MODEL.num_parameters
    activations = 4 * ROWS * LENGTH * MODEL.embed_dim / (mesh.data * mesh.fsdp)

    def ring(parts: int) -> float:
        return (parts - 1) / parts

    reduced = 2 * ring(mesh.data) * parameters / (mesh.fsdp * mesh.tensor)
    gathered = 3 * ring(mesh.fsdp) * parameters / mesh.tensor
    # Passes: forward and backward of the student, forward of the teacher.
    sums = 3 * 2 * MODEL.num_layers + 2 + 1
    return reduced + gathered + 2 * ring(mesh.tensor) * sums * activations


def main(argv: list[str]) -> None:
    """Compiles for every mesh, prints a table and writes the result."""
    del argv
    if jax.device_count() < DEVICES:  # how many there are can only be said before jax starts
        flags = f"--xla_force_host_platform_device_count={DEVICES}"
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        os.execve(sys.executable, [*sys.orig_argv], environment)
    rows: list[dict[str, Any]] = []
    for mesh in meshes():
        compiled = compiled_update(mesh)
        flops = compiled.cost_analysis()["flops"]
        sent = costs.cost(compiled.as_text()).sent
        alone = rows[0]["flops"] if rows else flops
        row = dataclasses.asdict(mesh) | {
            "flops": flops,
            "flop_deviation": flops * device_count(mesh) / alone - 1,
            "bytes_sent": sum(sent.values()),
            "ideal_bytes": ideal_bytes(mesh),
            "by_collective": sent,
        }
        rows.append(row)
        print(
            f"{mesh!s:32} {flops / 1e9:7.3f} GFLOP {row['flop_deviation']:+8.2%}"
            f"  sent {row['bytes_sent'] / 1e6:7.2f} MB, ideal {row['ideal_bytes'] / 1e6:7.2f} MB",
            flush=True,
        )
    worst = max(row["flop_deviation"] for row in rows)
    print(f"worst_flop_deviation {worst:.4f}")
    print(results.write("scaling", {"worst_flop_deviation": worst}, meshes=rows))


if __name__ == "__main__":
    app.run(main)
