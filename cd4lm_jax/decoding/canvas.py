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

from cd4lm_jax.decoding import blocks, on_mesh
from cd4lm_jax.decoding.program import Shape
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
        first_tokens: `[B, G]` int32, what an edited position was first; 0 at others.
        edited_at: `[B, G]` int32, the row's pass that last edited a position, 0 where none did.
        edits: `[B]` int32, tokens replaced by others.
        left: `[B, blocks]` int32, how much of each block no pass has chosen yet; what was chosen is
            committed, but where the mask token may be proposed and was.
        block: `[B]` int32, the active block: the first that is not finished.
        opened: `[B]` int32, one past the last block that is open.
        before: `[B]` int32, the active block of the pass before.
        step: `[B]` int32, passes spent in the active block.
        settling: `[B]` int32, those of them that began with nothing masked in it.
        nfe: `[B]` int32, passes spent while the row was unfinished.
        done: `[B]` bool.
    """

    tokens: jax.Array
    masked: jax.Array
    committed_at: jax.Array
    confidence: jax.Array
    reason: jax.Array
    first_tokens: jax.Array
    edited_at: jax.Array
    edits: jax.Array
    left: jax.Array
    block: jax.Array
    opened: jax.Array
    before: jax.Array
    step: jax.Array
    settling: jax.Array
    nfe: jax.Array
    done: jax.Array

    @classmethod
    def start(
        cls,
        tokens: jax.Array,
        valid: jax.Array,
        masked: jax.Array,
        done: jax.Array,
        shape: Shape,
    ) -> Canvas:
        """A canvas before its first pass.

        Args:
            tokens: `[B, T]`, the mask token wherever `masked`.
            valid: `[B, T]`, False on padding and past a row's last block.
            masked: `[B, G]`, what is to be decoded; the rest is given.
            done: `[B]`, slots that no prompt is left for.
            shape: says where blocks begin.
        """
        zero = jnp.zeros(masked.shape, jnp.int32)
        size = shape.block_length
        begun = blocks.offset(valid, shape.gen_length, size, shape.blocks)
        none = jnp.full(done.shape, -1)
        block = blocks.next_block(masked, none, size, begun, shape.num_blocks)
        past = ~valid[:, valid.shape[1] - masked.shape[1] :]
        return cls(
            tokens=tokens,
            masked=masked & ~done[:, None],
            committed_at=zero,
            confidence=zero.astype(jnp.float32),
            reason=jnp.where(masked | past, int(Reason.TAIL), int(Reason.GIVEN)),
            first_tokens=zero,
            edited_at=zero,
            edits=zero[:, 0],
            left=blocks.sizes(masked, size, begun, shape.num_blocks),
            block=block,
            opened=block + 1,
            before=block,
            step=zero[:, 0],
            settling=zero[:, 0],
            nfe=zero[:, 0],
            done=done | ~masked.any(axis=1),
        )


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
        first_tokens, edited_at, edits: [N, G], [N, G] and [N], see `Edits`.
        nfe: int32 [N], forward passes.
    """

    first_tokens: jax.Array
    edited_at: jax.Array
    edits: jax.Array
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
    def start(cls, queue: Queue, slots: int, shape: Shape, cache: KeyValueCache | None) -> State:
        """The first `slots` prompts of a queue, before their first pass."""
        region = queue.masked.shape
        row = jnp.arange(slots, dtype=jnp.int32)
        results = Results(
            **{name: jnp.zeros(region, kind) for name, kind in POSITION_TYPES.items()},
            first_tokens=jnp.zeros(region, jnp.int32),
            edited_at=jnp.zeros(region, jnp.int32),
            edits=jnp.zeros(region[:1], jnp.int32),
            nfe=jnp.zeros(region[:1], jnp.int32),
        )
        canvas = Canvas.start(
            queue.tokens[row], queue.valid[row], queue.masked[row], row >= queue.pending, shape
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
        own = jnp.minimum(self.row, len(queue.tokens) - 1)
        unknown = canvas.masked | ~queue.valid[own, -gen_length:]
        generated = jnp.where(unknown, eos_id, canvas.tokens[:, -gen_length:])
        first = jnp.where(canvas.edited_at > 0, canvas.first_tokens, generated)
        committed = {name: getattr(canvas, name) for name in POSITION_TYPES}
        rows = Results(
            **committed | {"tokens": generated},
            first_tokens=first,
            edited_at=canvas.edited_at,
            edits=canvas.edits,
            nfe=canvas.nfe,
        )
        place = jnp.where(which, self.row, len(queue.tokens))  # past the end: written nowhere
        return jax.tree.map(
            lambda every, row: on_mesh.everywhere(every.at[place].set(row, mode="drop")),
            self.results,
            rows,
        )


def hand_over(queue: Queue, eos_id: int, shape: Shape, state: State) -> State:
    """Writes the rows that have ended to the results and gives their slots to the next prompts."""
    ended = state.ended(queue)
    row = jnp.where(ended, state.upcoming + jnp.cumsum(ended) - 1, state.row)
    place = jnp.minimum(row, len(queue.tokens) - 1)
    fresh = Canvas.start(
        queue.tokens[place], queue.valid[place], queue.masked[place], row >= queue.pending, shape
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
    lengths: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens `[N, T]`, valid `[N, T]` and masked `[N, G]`; prompts end where answers begin.

    `given` has, for each prompt, the generation positions from the first: a token that is fixed,
    None for one to decode; what it does not reach is to be decoded. `lengths` are how many
    generation positions each row has, where that is not `gen_length`.
    """
    total = prompt_length + gen_length
    tokens = np.full((len(prompts), total), mask_id, np.int32)
    valid = np.zeros(tokens.shape, bool)
    masked = np.ones((len(prompts), gen_length), bool)
    for row, (prompt, fixed) in enumerate(zip(prompts, given, strict=True)):
        start = prompt_length - len(prompt)
        tokens[row, start:prompt_length] = prompt
        end = gen_length if lengths is None else lengths[row]
        valid[row, start : prompt_length + end] = True
        masked[row, end:] = False
        for position, token in enumerate(fixed):
            if token is not None:
                tokens[row, prompt_length + position] = token
                masked[row, position] = False
    return tokens, valid, masked
