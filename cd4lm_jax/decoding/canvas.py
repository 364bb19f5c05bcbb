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
            done: ``[B]``, slots that no prompt is left for.
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


class Queue(NamedTuple):
    """Prompts that are waiting; N rows of T positions.

    Attributes:
        tokens: ``[N, T]`` int32, the generation region filled with the mask token.
        valid: ``[N, T]`` bool, False on padding.
        keys: ``[N]`` typed keys, what is random in each row.
        pending: int32, how many rows are to be decoded, from the first.
    """

    tokens: jax.Array
    valid: jax.Array
    keys: jax.Array
    pending: jax.Array


class Results(NamedTuple):
    """What has been decoded of a queue; the fields of Trajectory, ``[N, G]`` and ``[N]``."""

    tokens: jax.Array
    committed_at: jax.Array
    confidence: jax.Array
    nfe: jax.Array


class State(NamedTuple):
    """The loop's whole state.

    Attributes:
        canvas: the B rows that are being decoded.
        row: ``[B]`` int32, whose place in the queue each is; past its end for an idle slot.
        upcoming: int32, the next in the queue.
        results: of the rows that have ended.
    """

    canvas: Canvas
    row: jax.Array
    upcoming: jax.Array
    results: Results

    @classmethod
    def start(cls, queue: Queue, slots: int, gen_length: int) -> State:
        """The first ``slots`` prompts of a queue, before their first pass."""
        region = (len(queue.tokens), gen_length)
        row = jnp.arange(slots, dtype=jnp.int32)
        results = Results(
            tokens=jnp.zeros(region, jnp.int32),
            committed_at=jnp.zeros(region, jnp.int32),
            confidence=jnp.zeros(region, jnp.float32),
            nfe=jnp.zeros(region[:1], jnp.int32),
        )
        canvas = Canvas.start(queue.tokens[row], row >= queue.pending, gen_length)
        return cls(canvas, row, jnp.int32(slots), results)

    def ended(self, queue: Queue) -> jax.Array:
        """``[B]``, slots whose row is finished and not yet handed over."""
        return self.canvas.done & (self.row < queue.pending)


def hand_over(queue: Queue, eos_id: int, state: State) -> State:
    """Files the rows that have ended under results and gives their slots to the next prompts."""
    canvas, ended = state.canvas, state.ended(queue)
    gen_length = canvas.masked.shape[1]
    generated = jnp.where(canvas.masked, eos_id, canvas.tokens[:, -gen_length:])
    rows = Results(generated, canvas.committed_at, canvas.confidence, canvas.nfe)
    place = jnp.where(ended, state.row, len(queue.tokens))  # past the end: written nowhere
    results = Results(
        *(
            all_.at[place].set(own, mode="drop")
            for all_, own in zip(state.results, rows, strict=True)
        )
    )
    row = jnp.where(ended, state.upcoming + jnp.cumsum(ended) - 1, state.row)
    tokens = queue.tokens[jnp.minimum(row, len(queue.tokens) - 1)]
    fresh = Canvas.start(tokens, row >= queue.pending, gen_length)

    def pick(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(ended.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    canvas = jax.tree.map(pick, fresh, canvas)
    return State(canvas, row, state.upcoming + ended.sum(), results)


def layout(
    prompts: Sequence[Sequence[int]], *, prompt_length: int, gen_length: int, mask_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens ``[N, T]`` and valid ``[N, T]`` of prompts, each right before its generation."""
    total = prompt_length + gen_length
    tokens = np.full((len(prompts), total), mask_id, np.int32)
    valid = np.zeros(tokens.shape, bool)
    valid[:, prompt_length:] = True
    for row, prompt in enumerate(prompts):
        start = prompt_length - len(prompt)
        tokens[row, start:prompt_length] = prompt
        valid[row, start:] = True
    return tokens, valid
