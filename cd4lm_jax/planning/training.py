"""The plan of a training run: the trainer's own update, compiled for a topology."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.projection import chunk_size
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.transformer import Remat
from cd4lm_jax.planning import costs
from cd4lm_jax.planning.plan import Plan, bytes_of, compiled
from cd4lm_jax.planning.topology import Topology
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
from cd4lm_jax.runtime.sharding import spec

_POLICIES: tuple[Remat, ...] = ("full", "dots", "none")


def plan(config: TrainConfig, architecture: ModelConfig, topology: Topology) -> Plan:
    """Compiles the update of a run.

    Args:
        config: the run; its mesh must use all chips.
        architecture: of the model that `config.init` names.
        topology: the chips.

    Raises:
        ValueError: the mesh does not fit the topology, or the batch the mesh.
    """
    devices = topology.devices()
    mesh = make_mesh(config.mesh, devices)
    if mesh.size != topology.count:
        raise ValueError(
            f"mesh {config.mesh} uses {mesh.size} of the {topology.count} chips of {topology}; "
            "give sizes whose product is that, or -1 for one of them"
        )
    program = config.program(architecture, mesh)
    rows, length, pack = config.data.batch_size, config.data.max_length, config.data.pack
    lowered = program.lower(rows, length, pack)
    state = program.state
    arguments = {
        "parameters": bytes_of(state.model),
        "optimizer": bytes_of(state.optimizer),
        "teacher": bytes_of((program.teacher, program.base, state.average)),
        "batch": bytes_of(program.batch(rows, length, pack)),
    }
    # Positions that one device projects: at most its rows' whole answers.
    parts = math.prod(mesh.shape[axis] for axis in spec(("batch",))[0]) * config.accumulate
    chunk = chunk_size(rows * length // parts, architecture.embed_dim, architecture.vocab_size)
    answer = min(pack * config.data.answer_length, length)
    chunks = -(-rows * answer // (parts * chunk))
    done = compiled(
        lowered,
        given=sum(arguments.values()),
        read=lambda text: (costs.cost(text, trips=(chunks,)),),
    )
    gradients = min(bytes_of(state.model), done.temporaries)
    memory = arguments | {"gradients": gradients, "temporaries": done.temporaries - gradients}
    sizes = MeshConfig(**{str(axis): size for axis, size in mesh.shape.items()})
    return Plan(
        program="update",
        topology=topology,
        mesh=sizes,
        settings={
            "rows": rows,
            "length": length,
            "pack": None if pack == 1 else pack,
            "accumulate": config.accumulate,
            "remat": config.execution.remat,
            "moments": config.optimizer.moments,
            "algorithm": config.optimizer.algorithm,
            "lora": config.lora.rank if config.lora else None,
            "quantize": None if config.quantize == "none" else config.quantize,
        },
        bytes_per_chip=memory,
        tokens=rows * length,
        runs=config.steps,
        cost=done.costs[0] if done.costs else None,
        exact=topology.shape is not None,
    )


def candidates(
    config: TrainConfig, topology: Topology, architecture: ModelConfig
) -> Iterator[TrainConfig]:
    """Runs to compare: every mesh of powers of two, 1 to 4 rows a chip, each remat policy.

    Meshes that split the heads unevenly, or that cannot split the batch, are left out, and so is
    what cannot fit because parameters, moments and teacher alone do not.
    """
    sizes = [size for size in range(1, topology.count + 1) if topology.count % size == 0]
    devices = topology.devices()
    for data, fsdp in itertools.product(sizes, repeat=2):
        tensor = topology.count // (data * fsdp)
        if data * fsdp * tensor != topology.count or architecture.num_kv_heads % tensor:
            continue
        shape = MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
        program = config.program(architecture, make_mesh(shape, devices))
        if bytes_of((program.state, program.teacher, program.base)) > topology.chip.memory:
            continue
        for each, remat in itertools.product((1, 2, 4), _POLICIES):
            rows = each * topology.count
            if rows % (data * fsdp * config.accumulate) == 0:
                yield dataclasses.replace(
                    config,
                    mesh=shape,
                    data=dataclasses.replace(config.data, batch_size=rows),
                    execution=dataclasses.replace(config.execution, remat=remat),
                )


def ranked(plans: list[Plan]) -> list[Plan]:
    """Those that fit, the most tokens a second of a chip first."""
    fitting = [plan for plan in plans if plan.fits]
    return sorted(fitting, key=lambda plan: -(plan.tokens_per_second or 0.0))
