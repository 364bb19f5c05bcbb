"""The canvas: prompt and generation region of a batch, and what is still masked.

Rows are ``[left padding | prompt | generation]``, so the block windows of ragged prompts line
up. Which generation positions are masked is an array of its own, never a comparison with the
mask token: a prompt may contain that token as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Canvas(NamedTuple):
    """The loop's state; B rows of T = P + G positions, P the padded prompt.

    Attributes:
        tokens: ``[B, T]`` int32.
        masked: ``[B, G]`` bool, generation positions not yet committed.
        committed_at: ``[B, G]`` int32, the row's pass that committed a position, 0 before.
        confidence: ``[B, G]`` float32, probability of the committed token, 0 before.
        block: ``[B]`` int32, the active block.
        step: ``[B]`` int32, passes spent in the active block.
        nfe: ``[B]`` int32, passes spent while the row was unfinished.
        done: ``[B]`` bool.
    """

    tokens: jax.Array
    masked: jax.Array
    committed_at: jax.Array
    confidence: jax.Array
    block: jax.Array
    step: jax.Array
    nfe: jax.Array
    done: jax.Array

    @classmethod
    def start(cls, tokens: jax.Array, done: jax.Array, gen_length: int) -> Canvas:
        """A canvas before its first pass.

        Args:
            tokens: ``[B, T]``, the generation region filled with the mask token.
            done: ``[B]``, rows that only fill up the batch.
            gen_length: G.
        """
        region = (tokens.shape[0], gen_length)
        zero = jnp.zeros(region[:1], jnp.int32)
        return cls(
            tokens=tokens,
            masked=jnp.ones(region, bool) & ~done[:, None],
            committed_at=jnp.zeros(region, jnp.int32),
            confidence=jnp.zeros(region, jnp.float32),
            block=zero,
            step=zero,
            nfe=zero,
            done=done,
        )


def layout(
    prompts: Sequence[Sequence[int]],
    *,
    rows: int,
    prompt_length: int,
    gen_length: int,
    mask_id: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens ``[rows, T]``, valid ``[rows, T]`` and done ``[rows]`` of prompts as a batch.

    Rows past the last prompt are filler: done from the start.
    """
    total = prompt_length + gen_length
    tokens = np.full((rows, total), mask_id, np.int32)
    valid = np.zeros((rows, total), bool)
    valid[:, prompt_length:] = True
    for row, prompt in enumerate(prompts):
        start = prompt_length - len(prompt)
        tokens[row, start:prompt_length] = prompt
        valid[row, start:] = True
    return tokens, valid, np.arange(rows) >= len(prompts)
