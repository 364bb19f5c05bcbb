r"""What one GPU does with LLaDA-8B's shape, beside what was planned; random weights.

    python -m experiments.benchmarks.gpu            # on a GPU of 80 GB or more
    python -m experiments.benchmarks.gpu --small    # the same code at a small size, anywhere

Needs jax, flax, optax and orbax only. Metrics:

lora_step_seconds    a DSCD update with adapters of rank 16: rows of 512, the base teaches
lora_step_mfu        its FLOPs, by the plan lora_h100_1, over the seconds and the GPU's peak
lora_peak_gib        memory that was in use at most
lora_reserved_gib    memory that the GPU's compiler reserved, arguments and temporaries
lora_plan_gib        memory that the plan lora_h100_1 predicts, with the CPU's compiler
llada_8b_ms_*        a pass of the decoder, see experiments.benchmarks.decode
attention_ms_*       attention of 16 rows of 512, 32 heads of 128, bfloat16: ours, XLA's, cuDNN's

What the device does not report (peak memory on CPU), or cannot do, is left out.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from cd4lm_jax.corruption.masking import NestedMasks
from cd4lm_jax.corruption.views import Batch
from cd4lm_jax.distillation.curriculum import LambdaCurriculum
from cd4lm_jax.distillation.learner import Learner
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.optimizer import OptimizerConfig
from cd4lm_jax.distillation.program import Program
from cd4lm_jax.models.attention import attention
from cd4lm_jax.models.config import ModelConfig, llada_8b
from cd4lm_jax.models.lora import LoraConfig
from cd4lm_jax.models.transformer import Execution
from cd4lm_jax.planning.topology import GIB, GPUS
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
from experiments.benchmarks import results
from experiments.benchmarks.timed_decode import in_turn, large, random_model

_SMALL = flags.DEFINE_bool("small", False, "A model of 4 M parameters: to try the code.")
_ROWS = flags.DEFINE_integer("rows", 16, "Of an update, in parts of 4.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of which the median counts.")

LENGTH, ANSWER = 512, 256
SMALL = ModelConfig(
    vocab_size=512,
    embed_dim=256,
    num_layers=4,
    num_heads=4,
    num_kv_heads=4,
    head_dim=64,
    mlp_dim=768,
    max_length=1024,
    mask_id=511,
    eos_id=510,
    end_ids=(510,),
)
Numbers = dict[str, float]


def lora_step(config: ModelConfig, metrics: Numbers, spreads: dict[str, Any]) -> None:
    """An update of adapters, the base being the teacher."""
    learner = Learner(
        corruption=NestedMasks(),
        objective=Objective(),
        curriculum=LambdaCurriculum(),
        optimizer=OptimizerConfig(learning_rate=1e-4),
        total_steps=1000,
        seed=0,
        accumulate=_ROWS.value // 4,
        lora=LoraConfig(rank=16),
    )
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    program = Program.of(
        learner,
        config,
        mesh,
        execution=Execution(dtype="bfloat16", remat="full"),
        frozen_dtype="bfloat16",
        teacher="base",
    )
    update = program.lower(_ROWS.value, LENGTH).compile()
    memory = update.memory_analysis()
    reserved = memory.argument_size_in_bytes + memory.output_size_in_bytes
    reserved += memory.temp_size_in_bytes - memory.alias_size_in_bytes
    metrics["lora_reserved_gib"] = reserved / GIB

    with jax.set_mesh(mesh):
        weights = random_model(config, "bfloat16")
        base = jax.tree.unflatten(jax.tree.structure(program.base), jax.tree.leaves(weights))
        state = program.create(base)
        shape = (_ROWS.value, LENGTH)
        batch = Batch(
            tokens=jax.random.randint(jax.random.key(1), shape, 0, config.eos_id),
            valid=jnp.ones(shape, bool),
            answer=jnp.broadcast_to(jnp.arange(LENGTH) >= LENGTH - ANSWER, shape),
            index=jnp.arange(_ROWS.value),
        )
        batch = jax.device_put(
            batch, jax.tree.map(lambda leaf: leaf.sharding, program.batch(*shape))
        )

        def step() -> None:
            nonlocal state
            state, metrics = update(state, None, batch, base)
            jax.block_until_ready(metrics)

        step()
        (times,) = in_turn(step, repeats=_REPEATS.value)
    metrics["lora_step_seconds"] = statistics.median(times)
    spreads["lora_step_seconds"] = results.spread(times)
    device = jax.devices()[0]
    if known := device.memory_stats():
        metrics["lora_peak_gib"] = known["peak_bytes_in_use"] / GIB
    peak = next((gpu.flops for name, gpu in GPUS.items() if _is(name, device)), None)
    if peak is not None and not _SMALL.value:
        # Of cuBLAS kernels a GPU's HLO says no FLOPs; the plan is of the same parts of 4 rows.
        plan = json.loads((results.FOLDER / "plan_lora_h100_1.json").read_text())
        flops = plan["metrics"]["flops_per_step"] * _ROWS.value / plan["settings"]["rows"]
        metrics["lora_step_mfu"] = flops / metrics["lora_step_seconds"] / peak
        metrics["lora_plan_gib"] = plan["metrics"]["bytes_per_chip"] / GIB


def _is(name: str, device: jax.Device) -> bool:
    """Whether a device is a GPU of the table: all parts of its name are in the device's."""
    kind = device.device_kind.lower()
    return all(part in kind for part in name.split("-"))


def attentions(metrics: Numbers, spreads: dict[str, Any]) -> None:
    """The ways to compute attention that jax has, beside ours."""
    shape = (2, 64, 4, 64) if _SMALL.value else (16, LENGTH, 32, 128)
    q, k, v = (
        jax.random.normal(key, shape, jnp.bfloat16)
        for key in jax.random.split(jax.random.key(0), 3)
    )
    attention_mask = jnp.ones(shape[:2], bool)
    ways: dict[str, Any] = {"ours": functools.partial(attention, attention_mask=attention_mask)}
    for kind in ("xla", "cudnn") if jax.default_backend() == "gpu" else ("xla",):
        ways[kind] = functools.partial(jax.nn.dot_product_attention, implementation=kind)
    for name, way in ways.items():
        call = functools.partial(jax.jit(way), q, k, v)
        times = results.seconds(call, repeats=_REPEATS.value)
        metrics[f"attention_ms_{name}"] = 1000 * statistics.median(times)
        spreads[f"attention_ms_{name}"] = results.spread(times)


def main(argv: list[str]) -> None:
    """Measures, prints; writes the result of a full-sized run on a GPU."""
    del argv
    if not _SMALL.value and jax.default_backend() != "gpu":
        sys.exit("error: no GPU; give --small to try the code on what is there")
    metrics: Numbers = {}
    spreads: dict[str, Any] = {}
    config = SMALL if _SMALL.value else llada_8b()
    name = "small" if _SMALL.value else "llada_8b"
    lora_step(config, metrics, spreads)
    attentions(metrics, spreads)
    large(config, name, _REPEATS.value, metrics, spreads)
    for metric, value in metrics.items():
        print(f"{metric:24} {value:10.3f}", flush=True)
    if not _SMALL.value:
        print(results.write("gpu", metrics, rows=_ROWS.value, spread=spreads))


if __name__ == "__main__":
    app.run(main)
