"""Run by the tests of planning, in a process that has the topology's environment.

Prints plans of a small model as JSON. The topology is the argument: a TPU slice, or `gpus`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from cd4lm_jax.data.pipeline import DataConfig
from cd4lm_jax.decoding.cache import Mode
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.lora import LoraConfig
from cd4lm_jax.models.transformer import Execution
from cd4lm_jax.planning import costs, decoding, training
from cd4lm_jax.planning.plan import Plan
from cd4lm_jax.planning.topology import Topology
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh

# A vocabulary that no other size equals, whole or split in four.
MODEL = ModelConfig(
    vocab_size=1024,
    embed_dim=128,
    num_layers=3,
    num_heads=4,
    num_kv_heads=4,
    head_dim=32,
    mlp_dim=384,
    max_length=64,
    mask_id=1023,
    eos_id=1022,
    end_ids=(1022,),
)
BLOCKS = dataclasses.replace(MODEL, attention="block", block_length=8, blocks="sequence")
CONFIG = TrainConfig(
    output="unused",
    steps=1000,
    init="unused",
    teacher="unused",
    teacher_dtype="bfloat16",
    data=DataConfig(batch_size=8, answer_length=32, max_length=64),
    execution=Execution(dtype="bfloat16", remat="full"),
    mesh=MeshConfig(fsdp=2, tensor=2),
)
DECODES: dict[str, tuple[Mode, dict[str, Any]]] = {
    "none": ("none", {}),
    "prefix": ("prefix", {}),
    "dual": ("dual", {}),
    "sampled": ("none", {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "cfg_scale": 1.0}),
}


def facts(plan: Plan) -> dict[str, Any]:
    return plan.metrics() | plan.details()


def decode(
    topology: Topology, cache: Mode, options: dict[str, Any], model: ModelConfig = MODEL
) -> dict[str, Any]:
    chosen = DecodeConfig(gen_length=32, block_length=8, batch_size=2, cache=cache, **options)
    plan = decoding.plan(model, chosen, topology, prompt_length=16)
    costs = [cost for cost in (plan.cost, plan.refresh) if cost is not None]
    moved = [decoding.of_vocabulary(cost, MODEL.vocab_size, topology.count) for cost in costs]
    return facts(plan) | {"vocabulary": sum(map(len, moved))}


def sorted_vocabulary(topology: Topology) -> int:
    """What the count finds in a program that ranks along a split vocabulary."""
    mesh = make_mesh(MeshConfig(tensor=topology.count), topology.devices())
    split = NamedSharding(mesh, PartitionSpec(None, "tensor"))
    logits = jax.ShapeDtypeStruct((2, MODEL.vocab_size), jnp.float32, sharding=split)
    text = jax.jit(lambda x: jnp.sort(x)[:, -5:]).lower(logits).compile().as_text()
    assert text is not None
    return len(decoding.of_vocabulary(costs.cost(text), MODEL.vocab_size, topology.count))


def main() -> None:
    topology = Topology.gpu(4, "h100") if sys.argv[1] == "gpus" else Topology.tpu(sys.argv[1])
    adapters = dataclasses.replace(CONFIG, lora=LoraConfig(rank=4))
    found: dict[str, Any] = {
        "full": facts(training.plan(CONFIG, MODEL, topology)),
        "none": decode(topology, *DECODES["none"]),
    }
    if topology.shape is None:
        found |= {name: decode(topology, *each) for name, each in DECODES.items()}
        found["blocks"] = decode(topology, "prefix", {}, BLOCKS)
        found["lora"] = facts(training.plan(adapters, MODEL, topology))
        found["sorted"] = sorted_vocabulary(topology)
        found["candidates"] = [
            [str(each.mesh), each.data.batch_size, each.execution.remat]
            for each in training.candidates(CONFIG, topology, MODEL)
        ]
        for name, config in {
            "mesh": dataclasses.replace(CONFIG, mesh=MeshConfig(fsdp=2)),
            "batch": dataclasses.replace(CONFIG, data=DataConfig(batch_size=7)),
        }.items():
            try:
                training.plan(config, MODEL, topology)
            except ValueError as error:
                found[f"wrong {name}"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
