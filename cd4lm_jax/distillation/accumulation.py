"""A batch in parts, computed one after the other to save memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import lax

T = TypeVar("T")


def split(tree: T, parts: int) -> T:
    """Every array `[batch, ...]` of a tree as `[parts, batch / parts, ...]`.

    Rows are dealt out in turn, so that each part is spread over the devices as the whole is.

    Raises:
        ValueError: the number of parts does not divide the batch.
    """

    def dealt(array: jax.Array) -> jax.Array:
        rows = array.shape[0]
        if rows % parts:
            raise ValueError(
                f"accumulate={parts} does not divide the batch of {rows} rows; give one that does"
            )
        return array.reshape(rows // parts, parts, *array.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(dealt, tree)


def joined(tree: T) -> T:
    """The inverse of `split`."""
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1, *a.shape[2:]), tree)


def mapped(function: Callable[[Any], T], tree: Any, parts: int) -> T:
    """`function` of a tree of `[batch, ...]` arrays to another, part by part."""
    if parts == 1:
        return function(tree)
    return joined(lax.map(function, split(tree, parts)))
