"""The canvas: prompt and generation region of a batch, and what is still masked.

Rows are `[left padding | prompt | generation]`, so the block windows of ragged prompts line
up. Which generation positions are masked is an array of its own, never a comparison with the
mask token: a prompt may contain that token as text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cd4lm_jax.decoding import on_mesh
from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.decoding.trajectory import POSITION_TYPES, Positions
from cd4lm_jax.models.attention import KeyValueCache

NO_BUDGET = np.iinfo(np.int32).max
"""Passes of a row that may take as many as it likes."""


class Canvas(NamedTuple):
    """The loop's state; B rows of T = P + G positions, P the padded prompt.

    Attributes:
        tokens: `[B, T]` int32.
        masked: `[B, G]` bool, generation positions not yet committed.
        committed_at: `[B, G]` int32, the row's pass that committed a position, 0 before.
        confidence: `[B, G]` float32, probability of the committed token, 0 before.
        reason: `[B, G]` int32, a `cd4lm_jax.decoding.trajectory.Reason`.
        block: `[B]` int32, the active block.
        step: `[B]` int32, passes spent in the active block.
        nfe: `[B]` int32, passes spent while the row was unfinished.
        done: `[B]` bool.
    """

    tokens: jax.Array
    masked: jax.Array
    committed_at: jax.Array
    confidence: jax.Array
    reason: jax.Array
    block: jax.Array
    step: jax.Array
    nfe: jax.Array
    done: jax.Array

    @classmethod
    def start(
        cls, tokens: jax.Array, masked: jax.Array, done: jax.Array, block_length: int
    ) -> Canvas:
        """A canvas before its first pass.

        Args:
            tokens: `[B, T]`, the mask token wherever `masked`.
            masked: `[B, G]`, what is to be decoded; the rest is given.
            done: `[B]`, slots that no prompt is left for.
            block_length: positions that are decoded together.
        """
        zero = jnp.zeros(masked.shape, jnp.int32)
        block = next_block(masked, jnp.full(done.shape, -1), block_length)
        return cls(
            tokens=tokens,
            masked=masked & ~done[:, None],
            committed_at=zero,
            confidence=zero.astype(jnp.float32),
            reason=jnp.where(masked, int(Reason.TAIL), int(Reason.GIVEN)),
            block=block,
            step=zero[:, 0],
            nfe=zero[:, 0],
            done=done | ~masked.any(axis=1),
        )


def next_block(masked: jax.Array, block: jax.Array, block_length: int) -> jax.Array:
    """`[B]`: the first block after `block` with something to decode; one past the last."""
    blocks = masked.reshape(len(masked), -1, block_length).any(axis=2)
    count = blocks.shape[1]
    later = blocks & (jnp.arange(count) > block[:, None])
    return jnp.where(later.any(axis=1), later.argmax(axis=1), count).astype(jnp.int32)


class Queue(NamedTuple):
    """Prompts that are waiting; N rows of T = P + G positions.

    Attributes:
        tokens: `[N, T]` int32, the mask token wherever `masked`.
        valid: `[N, T]` bool, False on padding.
        masked: `[N, G]` bool, what is to be decoded; other generation positions are given.
        budget: `[N]` int32, most passes of each row.
        keys: `[N]` typed keys, what is random in each row.
        pending: int32, how many rows are to be decoded, from the first.
    """

    tokens: jax.Array
    valid: jax.Array
    masked: jax.Array
    budget: jax.Array
    keys: jax.Array
    pending: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Results(Positions[jax.Array]):
    """What has been decoded of a queue of N prompts.

    Attributes:
        tokens, committed_at, confidence, reason: [N, G], see `Positions`.
        nfe: int32 [N], forward passes.
    """

    nfe: jax.Array


class State(NamedTuple):
    """The loop's whole state.

    Attributes:
        canvas: the B rows that are being decoded.
        row: `[B]` int32, whose place in the queue each is; past its end for an idle slot.
        upcoming: int32, the next in the queue.
        results: of the rows that have ended.
        cache: keys and values of the rows, where a cache is kept.
    """

    canvas: Canvas
    row: jax.Array
    upcoming: jax.Array
    results: Results
    cache: KeyValueCache | None

    @classmethod
    def start(
        cls, queue: Queue, slots: int, block_length: int, cache: KeyValueCache | None
    ) -> State:
        """The first `slots` prompts of a queue, before their first pass."""
        region = queue.masked.shape
        row = jnp.arange(slots, dtype=jnp.int32)
        results = Results(
            **{name: jnp.zeros(region, kind) for name, kind in POSITION_TYPES.items()},
            nfe=jnp.zeros(region[:1], jnp.int32),
        )
        canvas = Canvas.start(
            queue.tokens[row], queue.masked[row], row >= queue.pending, block_length
        )
        return cls(canvas, row, jnp.int32(slots), results, cache).pinned()

    def pinned(self) -> State:
        """The state as it is split over the mesh: rows and their cache, not the results."""
        return State(
            canvas=jax.tree.map(on_mesh.by_rows, self.canvas),
            row=on_mesh.by_rows(self.row),
            upcoming=on_mesh.everywhere(self.upcoming),
            results=jax.tree.map(on_mesh.everywhere, self.results),
            cache=jax.tree.map(on_mesh.cached, self.cache),
        )

    def ended(self, queue: Queue) -> jax.Array:
        """`[B]`, slots whose row is finished and not yet handed over."""
        return self.canvas.done & (self.row < queue.pending)

    def results_with(self, queue: Queue, eos_id: int, which: jax.Array) -> Results:
        """The results with the slots of `which [B]` as they are now, EOS for what is masked."""
        canvas = self.canvas
        gen_length = canvas.masked.shape[1]
        generated = jnp.where(canvas.masked, eos_id, canvas.tokens[:, -gen_length:])
        committed = {name: getattr(canvas, name) for name in POSITION_TYPES}
        rows = Results(**committed | {"tokens": generated}, nfe=canvas.nfe)
        place = jnp.where(which, self.row, len(queue.tokens))  # past the end: written nowhere
        return jax.tree.map(
            lambda every, row: on_mesh.everywhere(every.at[place].set(row, mode="drop")),
            self.results,
            rows,
        )


def hand_over(queue: Queue, eos_id: int, block_length: int, state: State) -> State:
    """Writes the rows that have ended to the results and gives their slots to the next prompts."""
    ended = state.ended(queue)
    row = jnp.where(ended, state.upcoming + jnp.cumsum(ended) - 1, state.row)
    place = jnp.minimum(row, len(queue.tokens) - 1)
    fresh = Canvas.start(
        queue.tokens[place], queue.masked[place], row >= queue.pending, block_length
    )

    def pick(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(ended.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return state._replace(
        canvas=jax.tree.map(pick, fresh, state.canvas),
        row=row,
        upcoming=state.upcoming + ended.sum(),
        results=state.results_with(queue, eos_id, ended),
    )


def layout(
    prompts: Sequence[Sequence[int]],
    given: Sequence[Sequence[int | None]],
    *,
    prompt_length: int,
    gen_length: int,
    mask_id: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens `[N, T]`, valid `[N, T]` and masked `[N, G]`; prompts end where answers begin.

    `given` has, for each prompt, the generation positions from the first: a token that is fixed,
    None for one to decode; what it does not reach is to be decoded.
    """
    total = prompt_length + gen_length
    tokens = np.full((len(prompts), total), mask_id, np.int32)
    valid = np.zeros(tokens.shape, bool)
    masked = np.ones((len(prompts), gen_length), bool)
    for row, (prompt, fixed) in enumerate(zip(prompts, given, strict=True)):
        start = prompt_length - len(prompt)
        tokens[row, start:prompt_length] = prompt
        valid[row, start:] = True
        for position, token in enumerate(fixed):
            if token is not None:
                tokens[row, prompt_length + position] = token
                masked[row, position] = False
    return tokens, valid, masked
