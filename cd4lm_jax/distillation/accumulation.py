"""A batch in parts, computed one after the other to save memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import lax

T = TypeVar("T")


def split(tree: T, parts: int, canvases: int) -> T:
    """Every array `[batch, ...]` of a tree as `[parts, batch / parts, ...]`.

    Canvases are dealt out in turn, each with its rows, so that each part is spread over the devices
    as the whole is.

    Args:
        tree: of arrays of rows or of canvases.
        parts: to split into.
        canvases: of the batch, its rows where none are packed.

    Raises:
        ValueError: the number of parts does not divide the batch.
    """
    if canvases % parts:
        raise ValueError(
            f"accumulate={parts} does not divide the batch of {canvases} rows; give one that does"
        )

    def dealt(array: jax.Array) -> jax.Array:
        each = array.shape[0] // canvases
        array = array.reshape(canvases // parts, parts, each, *array.shape[1:]).swapaxes(0, 1)
        return array.reshape(parts, -1, *array.shape[3:])

    return jax.tree.map(dealt, tree)


def joined(tree: T, canvases: int) -> T:
    """The inverse of `split`."""

    def gathered(array: jax.Array) -> jax.Array:
        parts, rows = array.shape[:2]
        each = rows * parts // canvases
        array = array.reshape(parts, canvases // parts, each, *array.shape[2:]).swapaxes(0, 1)
        return array.reshape(-1, *array.shape[3:])

    return jax.tree.map(gathered, tree)


def mapped(function: Callable[[Any], T], tree: Any, parts: int, canvases: int) -> T:
    """`function` of a tree of arrays as `split` takes them to another, part by part."""
    if parts == 1:
        return function(tree)
    return joined(lax.map(function, split(tree, parts, canvases)), canvases)
