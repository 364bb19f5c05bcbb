"""What an update is given: rows of text, and which positions of them are the answer."""

from __future__ import annotations

import dataclasses

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch, every array with a leading batch axis.

    Attributes:
        tokens: ``[batch, length]`` int32.
        valid: ``[batch, length]`` bool, False on padding.
        answer: ``[batch, length]`` bool, positions that may be masked.
        index: ``[batch]`` int32, the example's stable index in its split.
    """

    tokens: jax.Array
    valid: jax.Array
    answer: jax.Array
    index: jax.Array
