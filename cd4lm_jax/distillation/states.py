"""States that a model visits when it decodes the text it learns from.

Masks drawn at random are rarely what a decoder sees: it fills in first what it is sure of, and what
then stays open is what is hard. Here a model takes a few passes of CAD on a batch, within the
update itself, and where it would commit a token the text's own is shown. So nothing is recorded or
kept between steps: the states follow from parameters, seed, step and example, for any text, any
mesh and after any restart, at the cost of those passes.

On a model's own answers these are exactly the states of its own decode. On other text, the order is
the model's and the tokens are the text's, as in d3LLM's pseudo-trajectories (2601.07568).
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cd4lm_jax.corruption import masking
from cd4lm_jax.corruption.masking import Views
from cd4lm_jax.decoding import stop
from cd4lm_jax.distillation import objective as objectives
from cd4lm_jax.distillation.batch import Batch
from cd4lm_jax.model.transformer import Transformer


class Start(NamedTuple):
    """Where the rows of a batch are when a model begins to decode them.

    Attributes:
        hidden: ``[batch, length]`` bool.
        behind: ``[batch, 1]`` int32, passes to take.
        threshold: ``[batch, 1]`` float32, of CAD.
    """

    hidden: jax.Array
    behind: jax.Array
    threshold: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visited:
    """The states of a model's own CAD on the text (on-policy: Agarwal et al., GKD, 2306.13649).

    A block with text is drawn. What is before it is visible, it and what follows is hidden; then
    up to ``passes - 1`` passes are taken. What is learnt are the hidden positions of the block that
    the next pass works on, since those alone can be committed there.

    Attributes:
        by: whose passes: ``student`` (its own states, which change as it learns) or ``teacher``.
        passes: states to draw from: those before the first so many passes. A step costs up to
            ``passes - 1`` forward passes for them, and with a teacher its distance's.
        threshold: of CAD, the range that each row's is drawn from.
        block_length: of decoding.
    """

    by: Literal["student", "teacher"] = "student"
    passes: int = 3
    threshold: tuple[float, float] = (0.5, 0.95)
    block_length: int = 32

    def __post_init__(self) -> None:
        if self.passes < 1 or self.block_length < 1:
            raise ValueError(
                f"corruption.passes={self.passes} and corruption.block_length={self.block_length}; "
                "give 1 or more of each"
            )
        low, high = self.threshold
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"corruption.threshold={self.threshold}; give two probabilities, the lower first"
            )

    def start(self, key: jax.Array, batch: Batch, end_ids: tuple[int, ...]) -> Start:
        """Draws where every row is, from the key of the step."""
        keys = masking.row_keys(key, batch.index)
        block_at, pass_at, surely = masking.per_row(keys, 0, 3).T[..., None]
        block, (low, high) = self._block(batch.answer), self.threshold
        blocks = 1 + jnp.where(_text(batch, end_ids), block, 0).max(axis=1, keepdims=True)
        return Start(
            hidden=batch.answer & (block >= jnp.floor(block_at * blocks).astype(jnp.int32)),
            behind=jnp.floor(pass_at * self.passes).astype(jnp.int32),
            threshold=low + (high - low) * surely,
        )

    def student(self, model: Transformer, batch: Batch, start: Start) -> jax.Array:
        """``[batch, length]`` bool, what is hidden after the passes that each row has behind it.

        A row whose text would be complete stops before.
        """
        text = _text(batch, model.config.end_ids)

        def step(i: jax.Array, hidden: jax.Array) -> jax.Array:
            after = self._advance(model, batch, hidden, start.threshold)
            go_on = (i < start.behind) & (after & text).any(axis=1, keepdims=True)
            return jnp.where(go_on, after, hidden)

        return lax.fori_loop(0, start.behind.max(), step, start.hidden)

    def teacher(
        self,
        model: Transformer,
        batch: Batch,
        start: Start,
        student: jax.Array,
        distance: jax.Array | int,
    ) -> jax.Array:
        """What is hidden so many passes after the student's state: less, in any row with text."""

        def step(_: jax.Array, hidden: jax.Array) -> jax.Array:
            return self._advance(model, batch, hidden, start.threshold)

        return lax.fori_loop(0, distance, step, student)

    def views(self, batch: Batch, student: jax.Array, teacher: jax.Array) -> Views:
        """Both masks, and the weight of what the student's next pass can commit."""
        return Views(student, teacher, masking.mean_weight(self._open(batch.answer, student)))

    def _block(self, answer: jax.Array) -> jax.Array:
        return masking.answer_position(answer) // self.block_length

    def _open(self, answer: jax.Array, hidden: jax.Array) -> jax.Array:
        """The hidden positions of each row's first block that has any."""
        block = self._block(answer)
        active = jnp.where(hidden, block, hidden.shape[1]).min(axis=1, keepdims=True)
        return hidden & (block == active)

    def _advance(
        self, model: Transformer, batch: Batch, hidden: jax.Array, threshold: jax.Array
    ) -> jax.Array:
        """What is hidden after a pass of CAD: less by what is sure, the surest at least."""
        eligible = self._open(batch.answer, hidden)
        states = of_masked(model, batch, hidden)
        sure = objectives.confidence(states, eligible.reshape(-1), model.config.mask_id)
        sure = sure.reshape(hidden.shape)
        surest = jnp.arange(hidden.shape[1]) == sure.argmax(axis=1, keepdims=True)
        return hidden & ~(eligible & ((sure >= threshold) | surest))


def _text(batch: Batch, end_ids: tuple[int, ...]) -> jax.Array:
    """``[batch, length]`` bool: the answer up to its first end, with which decoding stops."""
    ends = batch.answer & stop.is_any_of(batch.tokens, end_ids)
    return batch.answer & (jnp.cumsum(ends, axis=1) - ends == 0)


def of_masked(model: Transformer, batch: Batch, masked: jax.Array) -> objectives.States:
    """What the loss needs of a model that reads the text with some positions masked."""
    noisy = masking.apply(batch.tokens, masked, model.config.mask_id)
    hidden = model.hidden(noisy, batch.valid)
    return objectives.States(hidden.reshape(-1, hidden.shape[-1]), model.head_kernel)
