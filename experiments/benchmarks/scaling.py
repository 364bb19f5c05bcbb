"""What each device computes and sends in one training update, by mesh, beside the ideal.

    python -m experiments.benchmarks.scaling

Metric: ``worst_flop_deviation``, the greatest relative excess of a device's FLOPs over one n-th of
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
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
from absl import app
from jax.sharding import NamedSharding

from cd4lm_jax.corruption.masking import Corruption
from cd4lm_jax.distillation.curriculum import LambdaCurriculum
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.step import Batch, Learner, OptimizerConfig, placed
from cd4lm_jax.model.config import ModelConfig
from cd4lm_jax.model.folder import abstract_model
from cd4lm_jax.model.transformer import Execution
from cd4lm_jax.runtime.mesh import AXES, MeshConfig, make_mesh
from cd4lm_jax.runtime.sharding import spec
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
    corruption=Corruption(),
    objective=Objective(),
    curriculum=LambdaCurriculum(),
    optimizer=OptimizerConfig(),
    total_steps=100,
    seed=0,
)
_BYTES = {"pred": 1, "s32": 4, "u32": 4, "f32": 4, "bf16": 2}
_COLLECTIVE = re.compile(
    r" = (?P<result>.*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all"
    r"|collective-permute)\(.*?(?P<groups>(?:replica_groups|source_target_pairs)=.*)"
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
    mesh = make_mesh(config)

    rows = NamedSharding(mesh, spec(("batch",)))

    def row(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((ROWS, *shape), dtype, sharding=rows)

    batch = Batch(
        tokens=row(jnp.int32, LENGTH),
        valid=row(jnp.bool_, LENGTH),
        answer=row(jnp.bool_, LENGTH),
        index=row(jnp.int32),
    )
    with jax.set_mesh(mesh):
        model = abstract_model(MODEL, Execution(scan_layers=False), mesh=mesh)
        state = placed(mesh, jax.eval_shape(LEARNER.init, model))
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        update = jax.jit(LEARNER.update, donate_argnums=0, out_shardings=(shardings, None))
        return update.lower(state, model, batch).compile()


def bytes_sent(hlo: str) -> dict[str, float]:
    """Bytes that one device sends in each kind of collective, by ring algorithms."""
    sent: dict[str, float] = {}
    for line in hlo.splitlines():
        found = _COLLECTIVE.search(line)
        if found is None:
            continue
        size = sum(
            _BYTES[kind] * math.prod(int(n) for n in shape.split(",") if n)
            for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", found["result"])
        )
        permuted = found["kind"] == "collective-permute"
        parts = 2 if permuted else _group_size(found["groups"].partition("=")[2])
        share = {
            "all-reduce": 2 * (parts - 1) / parts,
            "all-gather": (parts - 1) / parts,
            "reduce-scatter": parts - 1,
            "all-to-all": (parts - 1) / parts,
            "collective-permute": 1.0,
        }[found["kind"]]
        sent[found["kind"]] = sent.get(found["kind"], 0.0) + share * size
    return sent


def _group_size(groups: str) -> int:
    """Devices of one group, in each of the three ways that HLO writes groups down."""
    if listed := re.match(r"\{\{([\d,]+)\}", groups):  # {{0,1},{2,3}}
        return len(listed[1].split(","))
    if iota := re.match(r"\[\d+,(\d+)\]", groups):  # [2,2]<=[4]
        return int(iota[1])
    if named := re.match(r"mesh\[(.*?)\].*?\{('.*?)\}", groups):  # mesh['a'=2,'b'=4] {'b'}
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        # Of 'b':(1)2, a part of an axis, the last number is the size.
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    raise ValueError(f"unknown replica groups {groups!r}; this reader must learn them")


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
        sent = bytes_sent(compiled.as_text())
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
