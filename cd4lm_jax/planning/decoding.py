"""The plan of a decode: one pass of the compiled loop on a topology."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cd4lm_jax.checkpoints.model_folder import abstract_model
from cd4lm_jax.decoding import batching, loop, on_mesh
from cd4lm_jax.decoding.canvas import Queue
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.models.axes import logical_axes
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.placement import Placement
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.planning import costs
from cd4lm_jax.planning.costs import Collective, Cost
from cd4lm_jax.planning.plan import Plan, bytes_of, compiled
from cd4lm_jax.planning.topology import Topology
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
from cd4lm_jax.runtime.sharding import spec
from cd4lm_jax.runtime.trees import leaf_name


def plan(
    architecture: ModelConfig,
    config: DecodeConfig,
    topology: Topology,
    *,
    prompt_length: int,
    placement: Placement | None = None,
) -> Plan:
    """Compiles the loop that a decode on such chips runs.

    The cost is that of a pass in which every row is within its block; `refresh`, with a cache,
    that of one in which a row enters its block too.

    Args:
        architecture: of the model.
        config: `batch_size` rows are decoded at once, and wait in the queue.
        topology: the chips.
        prompt_length: padded.
        placement: how the model runs; None for bfloat16, split over all chips (tensor parallel).

    Raises:
        ValueError: lengths that do not fit, or a mesh that does not divide the model.
    """
    if placement is None:
        placement = Placement(mesh=MeshConfig(tensor=topology.count))
    placement.check(architecture, topology.count)
    mesh = make_mesh(placement.mesh, topology.devices())
    # Where blocks are counted from the sequence, the first may begin in the prompt.
    rows, generated = config.batch_size, config.shape(architecture).gen_length
    length = prompt_length + generated
    if length > architecture.max_length:
        raise ValueError(
            f"prompt_length={prompt_length} and gen_length={generated} exceed the model's "
            f"{architecture.max_length} positions; shorten one of them"
        )
    model = shapes(architecture, placement, mesh)
    waiting = queue(mesh, on_mesh.slots(rows, rows, mesh), length, generated)
    lowered = batching.whole(loop.run.lower, model, waiting, config)
    cached = config.cache != "none"
    held = {"parameters": bytes_of(model), "queue": bytes_of(waiting)}
    done = compiled(
        lowered,
        given=sum(held.values()),
        read=lambda text: tuple(costs.pass_cost(text, trips=(rows,)) for rows in (0.0, 1.0)),
    )
    inside, entering = done.costs or (None, None)
    return Plan(
        program="pass",
        topology=topology,
        mesh=placement.mesh,
        settings={
            "rows": rows,
            "prompt_length": prompt_length,
            "gen_length": config.gen_length,
            "block_length": config.block_length,
            "cache": config.cache,
            "quantize": None if placement.quantize == "none" else placement.quantize,
        },
        bytes_per_chip=held | {"temporaries": done.temporaries},
        tokens=rows,
        runs=0,
        cost=inside,
        refresh=entering if cached else None,
        exact=topology.shape is not None,
    )


def shapes(architecture: ModelConfig, placement: Placement, mesh: Mesh) -> Transformer:
    """The shapes of a model as a decode on a mesh is given it, with their shardings."""
    dtype, platform = placement.dtype or "bfloat16", mesh.devices.flat[0].platform
    execution = placement.execution(architecture, dtype, platform=platform)
    model = abstract_model(architecture, execution, dtype=dtype, quantize=placement.quantize)

    def describe(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        axes = logical_axes(leaf_name(path))
        axes = axes[len(axes) - leaf.ndim :]  # of a single layer the first is not there
        sharding = NamedSharding(mesh, spec(axes))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(describe, jax.eval_shape(Transformer.by_layer, model))


def queue(mesh: Mesh, rows: int, length: int, gen_length: int) -> Queue:
    """The shapes of a queue that every device holds."""
    whole = NamedSharding(mesh, PartitionSpec())

    def make() -> Queue:
        return Queue(
            tokens=jnp.zeros((rows, length), jnp.int32),
            valid=jnp.zeros((rows, length), bool),
            masked=jnp.zeros((rows, gen_length), bool),
            budget=jnp.zeros(rows, jnp.int32),
            keys=jax.random.split(jax.random.key(0), rows),
            pending=jnp.int32(rows),
        )

    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        jax.eval_shape(make),
    )


def of_vocabulary(cost: Cost, vocab: int, parts: int) -> tuple[Collective, ...]:
    """The collectives of a program that move an array with the vocabulary, or a part, in it."""
    return tuple(
        each
        for each in cost.collectives
        if any(size in (vocab, vocab // parts) for shape in each.shapes for size in shape)
    )
