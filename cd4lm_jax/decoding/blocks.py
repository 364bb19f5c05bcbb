"""Which block a position of the generation belongs to, and which blocks of a row are open.

Blocks count from the first generated position, or from the first token of the sequence (SDAR,
LLaDA2): then a row's first block begins with the end of its prompt, `offset` positions of it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cd4lm_jax.models.config import BlockOrigin


def offset(
    valid: jax.Array, gen_length: int, block_length: int, origin: BlockOrigin = "generation"
) -> jax.Array:
    """`[batch]` int32: positions of the prompt in the block that the generation begins in.

    Args:
        valid: `[batch, T]` bool, False on padding; the last `gen_length` are the generation.
        gen_length: generated positions.
        block_length: positions of a block.
        origin: what blocks are counted from.
    """
    if origin == "generation":
        return jnp.zeros(len(valid), jnp.int32)
    prompt = valid[:, : valid.shape[1] - gen_length]
    return prompt.sum(axis=1, dtype=jnp.int32) % block_length


def block_of(length: int, start: jax.Array, block_length: int) -> jax.Array:
    """`[batch, length]` int32: the blocks of positions that begin `start [batch]` after the first.

    Where the first block begins with the end of the prompt, `start` counts from there.
    """
    return (start[:, None] + jnp.arange(length)) // block_length


def next_block(
    masked: jax.Array, block: jax.Array, block_length: int, offset: jax.Array, none: int
) -> jax.Array:
    """`[batch]` int32: the first block after `block` with something to decode, else `none`.

    Args:
        masked: `[batch, generation]` bool.
        block: `[batch]`.
        block_length: positions of a block.
        offset: `[batch]`, see `offset`.
        none: past the last block.
    """
    own = block_of(masked.shape[1], offset, block_length)
    later = masked & (own > block[:, None])
    return jnp.where(later, own, none).min(axis=1).astype(jnp.int32)


def sizes(valid: jax.Array, block_length: int, offset: jax.Array, num_blocks: int) -> jax.Array:
    """`[batch, blocks]` int32: how many positions of `valid [batch, generation]` a block has."""
    return counts(valid, block_of(valid.shape[1], offset, block_length), num_blocks)


def counts(where: jax.Array, own: jax.Array, num_blocks: int) -> jax.Array:
    """`[batch, blocks]` int32: positions of `where` in each block; `own`: the block of each."""
    each = where[:, :, None] & (own[:, :, None] == jnp.arange(num_blocks))
    return each.sum(axis=1, dtype=jnp.int32)


def open_next(
    left: jax.Array,
    size: jax.Array,
    block: jax.Array,
    opened: jax.Array,
    *,
    lookahead: int,
    open_at: jax.Array | float,
) -> jax.Array:
    """`[batch]` int32: one past the last block that the next pass may commit in.

    Args:
        left: `[batch, blocks]`, positions of each block that no pass has chosen yet.
        size: `[batch, blocks]`, its generated positions.
        block: `[batch]`, the first unfinished block.
        opened: `[batch]`, what this returned before the pass before.
        lookahead: static, most open blocks.
        open_at: the next block opens when this share of the last open one has been chosen.
    """
    last = jnp.clip(opened - 1, 0, left.shape[1] - 1)[:, None]
    left, size = (jnp.take_along_axis(each, last, axis=1)[:, 0] for each in (left, size))
    # The product may exceed a whole number by a rounding error.
    enough = size - left >= open_at * size - 1e-3
    room = opened - block < lookahead
    return jnp.where(opened <= block, block + 1, opened + (enough & room))


def leading(left: jax.Array, block: jax.Array, opened: jax.Array) -> jax.Array:
    """`[batch]` int32: the first open block of which something has not been chosen yet, or -1."""
    number = jnp.arange(left.shape[1])
    waiting = (left > 0) & (number >= block[:, None]) & (number < opened[:, None])
    return jnp.where(waiting.any(axis=1), waiting.argmax(axis=1), -1).astype(jnp.int32)
