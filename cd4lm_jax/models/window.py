"""The positions of each row whose predictions are wanted."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
from jax import lax

if TYPE_CHECKING:
    from jaxtyping import Int, Shaped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """Positions `[start, start + length)` of each row.

    The last block's queries and MLP, and the head, run on the window alone.

    Attributes:
        start: `[batch]` int32, traced.
        length: static.
    """

    start: Int[jax.Array, " batch"]
    length: int

    def of(
        self, x: Shaped[jax.Array, "batch length *rest"]
    ) -> Shaped[jax.Array, "batch window *rest"]:
        """The window of every row of `x`."""
        take = jax.vmap(lambda row, at: lax.dynamic_slice_in_dim(row, at, self.length))
        return take(x, self.start)

    def put(
        self,
        x: Shaped[jax.Array, "*layers batch heads length dim"],
        part: Shaped[jax.Array, "*layers batch heads window dim"],
    ) -> Shaped[jax.Array, "*layers batch heads length dim"]:
        """Keys or values `x` with the window of every row from `part`."""
        put = jax.vmap(
            lambda row, new, at: lax.dynamic_update_slice_in_dim(row, new, at, axis=row.ndim - 2),
            in_axes=(x.ndim - 4, x.ndim - 4, 0),
            out_axes=x.ndim - 4,
        )
        return put(x, part.astype(x.dtype), self.start)
