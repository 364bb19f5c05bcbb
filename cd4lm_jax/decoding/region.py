"""The part of a canvas that a pass predicts, read and written."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cd4lm_jax.models.window import Window


@dataclasses.dataclass(frozen=True, kw_only=True)
class Region:
    """Positions `[start, start + length)` of each row of an array `[batch, positions]`.

    Attributes:
        start: `[batch]` int32, traced, from `-lead`: a first block may begin in the prompt.
        length: static.
        lead: static; positions before the array's first read as 0 and are not written.
    """

    start: jax.Array
    length: int
    lead: int = 0

    def of(self, array: jax.Array) -> jax.Array:
        """The region `[batch, length]` of every row."""
        window = Window(start=self.start + self.lead, length=self.length)
        return window.of(self._padded(array))

    def write(self, array: jax.Array, where: jax.Array, value: Any) -> jax.Array:
        """The array with `value` in the region wherever `where [batch, length]`."""
        new = jnp.where(where, value, self.of(array)).astype(array.dtype)
        put = jax.vmap(lambda row, part, at: lax.dynamic_update_slice_in_dim(row, part, at, 0))
        return put(self._padded(array), new, self.start + self.lead)[:, self.lead :]

    def _padded(self, array: jax.Array) -> jax.Array:
        return jnp.pad(array, ((0, 0), (self.lead, 0))) if self.lead else array
