r"""Plans, mostly of LLaDA-8B: does it fit, how long does it take, with no such chip present.

    python -m experiments.benchmarks.plans                        # all of them, about half an hour
    python -m experiments.benchmarks.plans --only=cad_v5e_4_dual

Needs libtpu (pip install '.[tpu]') for the plans of v5e. Each is a file
`experiments/results/plan_NAME.json` with the metrics `bytes_per_chip`, `chip_memory`,
`fits`, `flops_per_step`, `seconds_per_step_estimate` and others of `Plan.metrics`. A step
is an update, or a pass of the decoder, of which `vocabulary_collectives` counts what moves
anything of the vocabulary's size.

full_v5e_16    full fine-tune with its teacher, two rows of 512 a chip, 16 v5e chips of 16 GB
full_v5e_8     the same on 8 of them: second moments factored
lora_v5e_4     LoRA on 4 of them, two rows a chip
lora_h100_1    LoRA on one GPU of 80 GB, batches of 64 rows in parts of 4
qlora_rtx4090_1  LoRA of a base in int8 on one card of 24 GB, a row of 512 at a time
cad_v5e_1_int8 CAD in int8 on one v5e chip, dual cache, lengths as below
cad_t4_int4    CAD in int4 on one card of 16 GB
sdar_rtx4090_1 LoRA of SDAR-1.7B by DSCD in blocks, 16 rows of 512 one by one
sdar_v5e_4     the same on 4 v5e chips, two rows a chip
llada2_v5e_8   CAD of LLaDA2.0-mini (16B in experts) on 8 v5e chips, two rows, exact cache
cad_v5e_4_*    CAD on 4 v5e chips, prompt 256, 256 generated, one row, each cache; dual in int8 too
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Literal

from absl import app, flags, logging

from cd4lm_jax.corruption.masking import NestedMasks
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.models.config import ModelConfig, llada2_mini, llada_8b, sdar_1_7b
from cd4lm_jax.models.placement import Placement
from cd4lm_jax.models.quantization import Mode
from cd4lm_jax.planning import decoding, training
from cd4lm_jax.planning.plan import Plan
from cd4lm_jax.planning.topology import GIB, Topology
from cd4lm_jax.runtime.mesh import MeshConfig
from experiments.benchmarks import results
from experiments.configs import llada_8b_gsm8k, llada_8b_lora

Moments = Literal["float32", "bfloat16", "factored"]
Cache = Literal["none", "prefix", "dual"]


def run(
    recipe: TrainConfig,
    topology: Topology,
    *,
    rows: int,
    mesh: MeshConfig,
    moments: Moments = "float32",
    accumulate: int = 1,
    model: ModelConfig | None = None,
) -> Plan:
    """The plan of a recipe, of LLaDA-8B or another model, with other rows, mesh and moments."""
    config = dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, batch_size=rows),
        optimizer=dataclasses.replace(recipe.optimizer, moments=moments),
        mesh=mesh,
        accumulate=accumulate,
    )
    return training.plan(config, model or llada_8b(), topology)


def full(topology: Topology, mesh: MeshConfig, moments: Moments) -> Plan:
    """A full fine-tune, two rows a chip."""
    recipe = llada_8b_gsm8k.get_config()
    return run(recipe, topology, rows=2 * topology.count, mesh=mesh, moments=moments)


def lora(topology: Topology, mesh: MeshConfig, rows: int, accumulate: int = 1) -> Plan:
    """Adapters of a base that is the teacher as well."""
    recipe = llada_8b_lora.get_config()
    return run(recipe, topology, rows=rows, mesh=mesh, accumulate=accumulate)


def qlora(topology: Topology, quantize: Mode) -> Plan:
    """Adapters of a quantised base that is the teacher as well, a row of 512 at a time."""
    recipe = dataclasses.replace(llada_8b_lora.get_config(), quantize=quantize)
    return run(recipe, topology, rows=16, mesh=MeshConfig(), accumulate=16)


def sdar(topology: Topology, mesh: MeshConfig, rows: int, accumulate: int = 1) -> Plan:
    """Adapters of SDAR-1.7B, nested masks in every block."""
    masks = NestedMasks(student_ratio=(0.5, 1.0))
    recipe = dataclasses.replace(llada_8b_lora.get_config(), corruption=masks)
    return run(recipe, topology, rows=rows, mesh=mesh, accumulate=accumulate, model=sdar_1_7b())


def llada2(topology: Topology) -> Plan:
    """A pass of LLaDA2.0-mini; its 4 key and value heads are split over 4 chips."""
    placement = Placement(mesh=MeshConfig(data=-1, tensor=4))
    config = DecodeConfig(gen_length=256, block_length=32, batch_size=2, cache="prefix")
    return decoding.plan(llada2_mini(), config, topology, prompt_length=256, placement=placement)


def cad(topology: Topology, cache: Cache, quantize: Mode = "none") -> Plan:
    """A pass of the decoding loop."""
    config = DecodeConfig(gen_length=256, block_length=32, batch_size=1, cache=cache)
    placement = Placement(quantize=quantize, mesh=MeshConfig(tensor=topology.count))
    return decoding.plan(llada_8b(), config, topology, prompt_length=256, placement=placement)


PLANS: dict[str, tuple[Topology, Callable[[Topology], Plan]]] = {
    "full_v5e_16": (
        Topology.tpu("v5e:4x4"),
        lambda chips: full(chips, MeshConfig(fsdp=8, tensor=2), "bfloat16"),
    ),
    "full_v5e_8": (
        Topology.tpu("v5e:2x4"),
        lambda chips: full(chips, MeshConfig(fsdp=4, tensor=2), "factored"),
    ),
    "lora_v5e_4": (
        Topology.tpu("v5e:2x2"),
        lambda chips: lora(chips, MeshConfig(fsdp=2, tensor=2), rows=8),
    ),
    "lora_h100_1": (
        Topology.gpu(1, "h100"),
        lambda chip: lora(chip, MeshConfig(), rows=64, accumulate=16),
    ),
    "qlora_rtx4090_1": (
        Topology.gpu(1, "rtx4090"),
        lambda card: qlora(card, "int8"),
    ),
    "sdar_rtx4090_1": (
        Topology.gpu(1, "rtx4090"),
        lambda card: sdar(card, MeshConfig(), rows=16, accumulate=16),
    ),
    "sdar_v5e_4": (Topology.tpu("v5e:2x2"), lambda chips: sdar(chips, MeshConfig(data=4), rows=8)),
    "llada2_v5e_8": (Topology.tpu("v5e:2x4"), llada2),
    "cad_v5e_1_int8": (Topology.tpu("v5e:1x1"), lambda chip: cad(chip, "dual", "int8")),
    "cad_t4_int4": (Topology.gpu(1, "t4"), lambda card: cad(card, "dual", "int4")),
    "cad_v5e_4_none": (Topology.tpu("v5e:2x2"), lambda chips: cad(chips, "none")),
    "cad_v5e_4_prefix": (Topology.tpu("v5e:2x2"), lambda chips: cad(chips, "prefix")),
    "cad_v5e_4_dual": (Topology.tpu("v5e:2x2"), lambda chips: cad(chips, "dual")),
    "cad_v5e_4_int8": (Topology.tpu("v5e:2x2"), lambda chips: cad(chips, "dual", "int8")),
}

_ONLY = flags.DEFINE_enum("only", None, list(PLANS), "One of them, in this process.")


def write(name: str) -> None:
    """Makes one plan, prints its line and writes its file."""
    topology, make = PLANS[name]
    plan = make(topology)
    model = llada2_mini() if name.startswith("llada2") else llada_8b()
    metrics, vocab = plan.metrics(), model.vocab_size
    if plan.program == "pass" and plan.cost is not None:
        moved = decoding.of_vocabulary(plan.refresh or plan.cost, vocab, topology.count)
        metrics["vocabulary_collectives"] = len(moved)
    verdict = "fits" if plan.fits else "does not fit"
    took = "" if plan.seconds is None else f", {1000 * plan.seconds:.1f} ms"
    print(f"{name:16} {plan.total / GIB:6.2f} GiB a chip, {verdict}{took}", flush=True)
    print(results.write(f"plan_{name}", metrics, **plan.details()))


def main(argv: list[str]) -> None:
    """Makes each plan in a process of its own: topologies need different environments."""
    del argv
    if _ONLY.value is not None:
        logging.set_verbosity(logging.WARNING)
        write(_ONLY.value)
        return
    failed = []
    for name, (topology, _) in PLANS.items():
        command = [sys.executable, "-m", "experiments.benchmarks.plans", f"--only={name}"]
        done = subprocess.run(command, env={**os.environ, **topology.environment}, check=False)
        failed += [name] if done.returncode else []
    if failed:
        sys.exit(f"error: no plan of {', '.join(failed)}")


if __name__ == "__main__":
    app.run(main)
