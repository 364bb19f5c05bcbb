"""Random numbers of examples, which depend neither on the batch's grouping nor on its padding.

The numbers of an example come from `fold_in(fold_in(key(seed), step), example index)` and are
indexed by the position within the answer. So masks depend neither on the mesh, nor on the rows
beside, nor on a restart.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def row_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """The keys `[batch]` of the examples `index` `[batch]` in the step of `key`."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def per_row(keys: jax.Array, stream: int, count: int) -> jax.Array:
    """Uniform numbers `[batch, count]` of the rows with these keys; streams are independent."""
    draw = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, stream), (count,)))
    return draw(keys)


def per_position(keys: jax.Array, stream: int, answer: jax.Array) -> jax.Array:
    """Uniform numbers `[batch, length]` that belong to positions within `answer`, bool alike."""
    draws = per_row(keys, stream, answer.shape[1])
    return jnp.take_along_axis(draws, answer_position(answer), axis=1)


def between(draw: jax.Array, bounds: tuple[float, float]) -> jax.Array:
    """Uniform numbers of 0 to 1, any shape, as ones between the bounds."""
    low, high = bounds
    return low + (high - low) * draw


def answer_position(answer: jax.Array) -> jax.Array:
    """Each position's index within its row's answer, int32 `[batch, length]`, 0 before it."""
    return jnp.maximum(jnp.cumsum(answer, axis=1) - 1, 0)


def masking_order(keys: jax.Array, answer: jax.Array, block_length: jax.Array) -> jax.Array:
    """The order in which answer positions are masked, the last block first.

    Within a block the order is random. With one block for the whole answer it is random throughout.

    Args:
        keys: `[batch]` typed keys.
        answer: `[batch, length]` bool.
        block_length: `[batch]` int32, positions of a block.

    Returns:
        `[batch, length]` int32, each answer position's place in its row's order, from 0.
    """
    blocks_from_last = jnp.where(answer, -(answer_position(answer) // block_length[:, None]), 1)
    positions = jnp.lexsort((per_position(keys, 1, answer), blocks_from_last))
    return jnp.argsort(positions, axis=1)


def ranks(values: jax.Array) -> jax.Array:
    """The place of each of `values` `[batch, length]` in its row's ascending order, from 0."""
    return jnp.argsort(jnp.argsort(values, axis=1), axis=1)
