"""Where states, gradients and batches are on a mesh."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from cd4lm_jax.corruption.views import Batch
from cd4lm_jax.distillation.state import Trained, TrainState
from cd4lm_jax.models import lora
from cd4lm_jax.runtime.sharding import HostRows, LogicalAxes, constrain, spec
from cd4lm_jax.runtime.trees import leaf_name


def placed_state(mesh: Mesh | AbstractMesh, state: TrainState) -> TrainState:
    """The shapes of a state with their shardings: moments are split as their parameters are."""

    def place(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, spec(_axes(path, leaf)))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, state)


def split_as_parameters(gradient: Trained) -> Trained:
    """`gradient` split over the mesh as the parameters are, which XLA would not see to."""

    def pin(path: Any, leaf: jax.Array) -> jax.Array:
        return constrain(leaf, _axes(path, leaf))

    return jax.tree_util.tree_map_with_path(pin, gradient)


def placed_batch(read: Mapping[str, Any], rows: HostRows) -> Batch:
    """The global batch on the mesh.

    Args:
        read: the arrays of `Batch` by name, with the rows that this host has read.
        rows: which ones those are; canvases, where rows are packed.
    """
    starts = read.get("starts")
    each = rows if starts is None else rows.times(starts.shape[1])
    names = [field.name for field in dataclasses.fields(Batch) if field.name != "starts"]
    return Batch(
        **{name: each.place(read[name]) for name in names},
        starts=None if starts is None else rows.place(starts),
    )


def _axes(path: Any, leaf: Any) -> LogicalAxes:
    """Logical axes of a leaf of a state; what has no parameter's shape is on every device."""
    axes = lora.logical_axes(leaf_name(path))
    return axes if len(axes) == leaf.ndim else ()
