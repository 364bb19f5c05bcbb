"""Where the arrays of a decode are on a mesh.

The model is where it was loaded. Rows are split over the axes that take the batch (`data` and
`fsdp`), heads and vocabulary over `tensor`; the queue and its results are whole on every device.
Without a mesh every function here changes nothing.
"""

from __future__ import annotations

import contextlib
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cd4lm_jax.runtime.sharding import constrain, row_parts


def mesh_of(model: Any) -> Mesh | None:
    """The mesh over which a model is split; None where it is on one device."""
    sharding = getattr(jax.tree.leaves(model)[0], "sharding", None)
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
        return sharding.mesh
    return None


def within(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """The context in which a loop is traced, compiled and called."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def slots(batch_size: int, rows: int, mesh: Mesh | None) -> int:
    """Rows that are decoded together: a power of two or the whole batch, in equal parts.

    Few sizes are compiled for, and every part of the mesh has as many rows.

    >>> [slots(8, rows, None) for rows in (1, 3, 5, 8, 100)]
    [1, 4, 8, 8, 8]
    """
    parts = 1 if mesh is None else row_parts(mesh)
    count = min(batch_size, 1 << (rows - 1).bit_length())
    return -(-count // parts) * parts


def whole(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of what every device holds."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def by_rows(array: jax.Array) -> jax.Array:
    """Pins `[rows, ...]`, within a compiled function, to be split by rows."""
    return constrain(array, ("batch", *[None] * (array.ndim - 1)))


def everywhere(array: jax.Array) -> jax.Array:
    """Pins an array, within a compiled function, to be whole on every device."""
    return constrain(array, (None,) * array.ndim)


def cached(array: jax.Array) -> jax.Array:
    """Pins keys or values `[..., rows, kv_heads, length, head_dim]`: rows and heads are split."""
    lead = [None] * (array.ndim - 4)
    return constrain(array, (*lead, "batch", "kv_heads", "length", "head_dim"))


def parts_of_rows() -> int:
    """Parts into which the mesh of the function that is being traced splits rows."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else row_parts(mesh)


def take(array: jax.Array, places: jax.Array, axis: int = 0) -> jax.Array:
    """Some rows of each part; no row leaves its part.

    Args:
        array: rows along `axis`.
        places: `[parts, count]`, places within each part.
        axis: of the rows.

    Returns:
        `parts * count` rows along `axis`.
    """
    parts, before = len(places), (slice(None),) * axis
    if parts == 1:
        return array[*before, places[0]]
    select = jax.vmap(lambda part, at: part[*before, at], in_axes=(axis, 0), out_axes=axis)
    return _join(select(_split(array, parts, axis), places), axis)


def put(array: jax.Array, places: jax.Array, rows: jax.Array, axis: int = 0) -> jax.Array:
    """`array` with rows written to places of each part, see `take`; past the end nowhere."""
    parts, before = len(places), (slice(None),) * axis

    def write(array: jax.Array, places: jax.Array, rows: jax.Array) -> jax.Array:
        return array.at[*before, places].set(rows, mode="drop", unique_indices=True)

    if parts == 1:
        return write(array, places[0], rows)
    split = (_split(array, parts, axis), places, _split(rows, parts, axis))
    return _join(jax.vmap(write, in_axes=(axis, 0, axis), out_axes=axis)(*split), axis)


def _split(array: jax.Array, parts: int, axis: int) -> jax.Array:
    shape = array.shape
    return array.reshape(*shape[:axis], parts, shape[axis] // parts, *shape[axis + 1 :])


def _join(array: jax.Array, axis: int) -> jax.Array:
    shape = array.shape
    return array.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
