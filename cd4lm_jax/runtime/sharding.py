"""One table from logical axes to mesh axes, and what follows from it.

Arrays are described by logical axis names, one a dimension (`("embed", "mlp")`; None for a
dimension that is never split). Only the table knows the mesh. The shape of it is that of
jax-llm-examples' ShardingRules.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from cd4lm_jax.settings.choices import nearest

LogicalAxes = tuple[str | None, ...]
MeshAxes = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardingRules:
    """Logical axis -> the mesh axis (or axes) it is split over, None for not at all.

    Parameters are split over `fsdp` along their embed dimension and over `tensor` along the
    other one, so each matrix is split over both and no name repeats in one array.
    """

    # Activations.
    batch: MeshAxes = ("data", "fsdp")
    length: MeshAxes = None
    # Parameters.
    embed: MeshAxes = "fsdp"
    heads: MeshAxes = "tensor"
    kv_heads: MeshAxes = "tensor"
    head_dim: MeshAxes = None
    mlp: MeshAxes = "tensor"
    experts: MeshAxes = None
    vocab: MeshAxes = "tensor"
    layers: MeshAxes = None
    norm: MeshAxes = None


RULES = ShardingRules()


def spec(axes: LogicalAxes, rules: ShardingRules = RULES) -> PartitionSpec:
    """The PartitionSpec of an array with these logical axes.

    Raises:
        ValueError: a name that the table lacks, or two dimensions split over one mesh axis.
    """
    known = [field.name for field in dataclasses.fields(rules)]
    entries: list[MeshAxes] = []
    for name in axes:
        if name is not None and name not in known:
            raise ValueError(f"no logical axis {name!r} (in {axes}); {nearest(name, known)}")
        entries.append(None if name is None else getattr(rules, name))
    used = [a for e in entries for a in ((e,) if isinstance(e, str) else e or ())]
    repeated = {axis for axis in used if used.count(axis) > 1}
    if repeated:
        raise ValueError(
            f"logical axes {axes} split two dimensions over mesh axis {sorted(repeated)[0]!r}; "
            "name one of them None"
        )
    return PartitionSpec(*entries)


def dividing(
    parts: PartitionSpec, shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    """The spec without the axes that a mesh cannot divide evenly, such as an odd vocabulary."""
    kept: list[MeshAxes] = []
    for size, entry in zip(shape, parts, strict=False):
        axes = (entry,) if isinstance(entry, str) else entry or ()
        kept.append(None if size % math.prod(mesh.shape[axis] for axis in axes) else entry)
    return PartitionSpec(*kept)


def shardings(mesh: Mesh, axes: Any, rules: ShardingRules = RULES) -> Any:
    """A tree of tuples of logical names -> the same tree of NamedShardings on `mesh`."""
    return jax.tree.map(
        lambda names: NamedSharding(mesh, spec(names, rules)),
        axes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def constrain(array: jax.Array, axes: LogicalAxes, rules: ShardingRules = RULES) -> jax.Array:
    """Pins an activation's sharding inside jit; without a mesh (`jax.set_mesh`) does nothing."""
    if jax.sharding.get_abstract_mesh().empty:
        return array
    return jax.lax.with_sharding_constraint(array, spec(axes, rules))


def row_parts(mesh: Mesh | AbstractMesh, rules: ShardingRules = RULES) -> int:
    """Parts into which a mesh splits the rows of a batch."""
    axes = spec(("batch",), rules)[0] or ()
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))


class HostRows:
    """The rows of a global batch that the devices of this host hold.

    They follow from the mesh: hosts among which a layer is split (`tensor`) hold the same rows,
    and where the mesh follows the wiring of the devices a host's rows need not be consecutive.

    Attributes:
        places: int `[rows]`, places in the global batch, ascending.
    """

    def __init__(self, mesh: Mesh, batch_size: int) -> None:
        """Finds out the places.

        Raises:
            ValueError: the mesh cannot split a batch of this size.
        """
        self.check(mesh, batch_size)
        self._mesh, self._size = mesh, batch_size
        held = NamedSharding(mesh, spec(("batch",))).addressable_devices_indices_map((batch_size,))
        every = np.arange(batch_size)
        self.places = np.unique(np.concatenate([every[index] for index in held.values()]))

    def times(self, each: int) -> HostRows:
        """Of a batch that has so many rows where this one has a row."""
        return HostRows(self._mesh, self._size * each)

    @staticmethod
    def check(mesh: Mesh | AbstractMesh, batch_size: int) -> None:
        """Raises ValueError where the mesh cannot split a batch of this size."""
        axes = spec(("batch",))[0]
        parts = math.prod(mesh.shape[axis] for axis in axes)
        if batch_size % parts:
            raise ValueError(
                f"batch_size {batch_size} cannot be split over the {parts} parts of the mesh that "
                f"take rows ({' x '.join(axes)}); give a multiple of {parts}"
            )

    def place(self, array: np.ndarray) -> jax.Array:
        """The global array `[batch, ...]` of which this host has its rows `[rows, ...]`."""
        axes = ("batch",) + (None,) * (array.ndim - 1)

        def part(index: Any) -> np.ndarray:
            return array[np.searchsorted(self.places, np.arange(self._size)[index[0]])]

        shape = (self._size, *array.shape[1:])
        return jax.make_array_from_callback(shape, NamedSharding(self._mesh, spec(axes)), part)
