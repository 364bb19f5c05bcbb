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


def open_next(
    masked: jax.Array,
    valid: jax.Array,
    block: jax.Array,
    opened: jax.Array,
    block_length: int,
    offset: jax.Array,
    *,
    lookahead: int,
    open_at: jax.Array | float,
) -> jax.Array:
    """`[batch]` int32: one past the last block that the next pass may commit in.

    Args:
        masked: `[batch, generation]` bool.
        valid: `[batch, generation]` bool, False past a row's last block.
        block: `[batch]`, the first unfinished block.
        opened: `[batch]`, what this returned before the pass before.
        block_length: positions of a block.
        offset: `[batch]`, see `offset`.
        lookahead: static, most open blocks.
        open_at: the next block opens when this share of the last open one is committed.
    """
    own = block_of(masked.shape[1], offset, block_length)
    last = valid & (own == opened[:, None] - 1)
    committed = (last & ~masked).sum(axis=1)
    # What the prompt has of the block does not count as committed.
    enough = committed >= open_at * last.sum(axis=1)
    room = opened - block < lookahead
    return jnp.where(opened <= block, block + 1, opened + (enough & room))
