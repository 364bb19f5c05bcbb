"""States that a model visits when it decodes the text it learns from.

Masks drawn at random are rarely what a decoder sees: it fills in first what it is sure of, and what
then stays open is what is hard. Here a model takes a few passes of CAD on a batch, within the
update itself, and where it would commit a token the text's own is shown. So nothing is recorded or
kept between steps: the states follow from parameters, seed, step and example, for any text, any
mesh and after any restart, at the cost of those passes.

On a model's own answers these are exactly the states of its own decode. On other text, the order is
the model's and the tokens are the text's, as in d3LLM's pseudo-trajectories (2601.07568); or the
tokens are the model's too.
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
from cd4lm_jax.models.transformer import Transformer


class Start(NamedTuple):
    """Where the rows of a batch are when a model begins to decode them.

    Attributes:
        hidden: ``[batch, length]`` bool.
        behind: ``[batch, 1]`` int32, passes to take.
        threshold: ``[batch, 1]`` float32, of CAD.
        told: ``[batch, length]`` float32, 0 or more where the teacher is told what is committed
            in the passes that it is ahead; of a row's positions the highest first.
    """

    hidden: jax.Array
    behind: jax.Array
    threshold: jax.Array
    told: jax.Array


class State(NamedTuple):
    """Where the rows of a batch are.

    Attributes:
        tokens: ``[batch, length]`` int32, what stands where nothing is hidden.
        hidden: ``[batch, length]`` bool.
    """

    tokens: jax.Array
    hidden: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visited:
    """The states of a model's own CAD on the text (on-policy: Agarwal et al., GKD, 2306.13649).

    A block with text is drawn. What is before it is visible, it and what follows is hidden; then
    up to ``passes - 1`` passes are taken. What is learnt are the hidden positions of the block that
    the next pass works on, since those alone can be committed there.

    Attributes:
        by: whose passes: ``student`` (its own states, which change as it learns) or ``teacher``.
        shows: what stands where a token was committed: the ``text``'s, or the model's ``own``. Of
            several things that could be said a model then settles on one, for the teacher goes on
            from what the student began. Learnt is what the teacher guesses, not what it was told;
            the text, which may say another thing, is best left out (a lambda of 1).
        tell: range of the share of what is committed in the passes ahead that the teacher sees; a
            row's is drawn from it. Of its ``own`` tokens a student could never learn better were
            all of them told.
        passes: states to draw from: those before the first so many passes. A step costs up to
            ``passes - 1`` forward passes for them, and with a teacher its distance's.
        threshold: of CAD, the range that each row's is drawn from.
        block_length: of decoding.
    """

    by: Literal["student", "teacher"] = "student"
    shows: Literal["text", "own"] = "text"
    tell: tuple[float, float] = (1.0, 1.0)
    passes: int = 3
    threshold: tuple[float, float] = (0.5, 0.95)
    block_length: int = 32

    def __post_init__(self) -> None:
        if self.passes < 1 or self.block_length < 1:
            raise ValueError(
                f"corruption.passes={self.passes} and corruption.block_length={self.block_length}; "
                "give 1 or more of each"
            )
        for name in ("threshold", "tell"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= 1:
                raise ValueError(
                    f"corruption.{name}={(low, high)}; give two shares of 0 to 1, the lower first"
                )

    def start(self, key: jax.Array, batch: Batch, end_ids: tuple[int, ...]) -> Start:
        """Draws where every row is, from the key of the step."""
        keys = masking.row_keys(key, batch.index)
        block_at, pass_at, surely = masking.per_row(keys, 0, 3).T[..., None]
        share = masking.between(masking.per_row(keys, 1, 1), self.tell)
        block = self._block(batch.answer)
        blocks = 1 + jnp.where(_text(batch, end_ids), block, 0).max(axis=1, keepdims=True)
        return Start(
            hidden=batch.answer & (block >= jnp.floor(block_at * blocks).astype(jnp.int32)),
            behind=jnp.floor(pass_at * self.passes).astype(jnp.int32),
            threshold=masking.between(surely, self.threshold),
            told=share - masking.per_position(keys, 2, batch.answer),
        )

    def student(self, model: Transformer, batch: Batch, start: Start) -> State:
        """After the passes that each row has behind it.

        A row whose text would be complete stops before.
        """
        text = _text(batch, model.config.end_ids)

        def step(i: jax.Array, state: State) -> State:
            after = self._advance(model, batch, state, start.threshold)
            go_on = (i < start.behind) & (after.hidden & text).any(axis=1, keepdims=True)
            return jax.tree.map(lambda new, old: jnp.where(go_on, new, old), after, state)

        begun = State(batch.tokens, start.hidden)
        return lax.fori_loop(0, start.behind.max(), step, begun)

    def teacher(
        self,
        model: Transformer,
        batch: Batch,
        start: Start,
        student: State,
        distance: jax.Array | int,
    ) -> State:
        """So many passes after the student's state, as far as the teacher is told of them.

        Less is hidden in any row with text: one token is told at least.
        """

        def step(_: jax.Array, state: State) -> State:
            return self._advance(model, batch, state, start.threshold)

        ahead = lax.fori_loop(0, distance, step, student)
        new = student.hidden & ~ahead.hidden
        told = jnp.where(new, start.told, -jnp.inf)
        first = jnp.arange(new.shape[1]) == told.argmax(axis=1, keepdims=True)
        shown = new & ((told >= 0) | first)
        return State(
            tokens=jnp.where(shown, ahead.tokens, student.tokens), hidden=student.hidden & ~shown
        )

    def views(self, batch: Batch, student: jax.Array, teacher: jax.Array) -> Views:
        """Both masks, and the weight of what the student's next pass can commit."""
        learnt = self._open(batch.answer, student)
        if self.shows == "own":
            learnt &= teacher
        return Views(student, teacher, masking.mean_weight(learnt))

    def _block(self, answer: jax.Array) -> jax.Array:
        return masking.answer_position(answer) // self.block_length

    def _open(self, answer: jax.Array, hidden: jax.Array) -> jax.Array:
        """The hidden positions of each row's first block that has any."""
        block = self._block(answer)
        active = jnp.where(hidden, block, hidden.shape[1]).min(axis=1, keepdims=True)
        return hidden & (block == active)

    def _advance(
        self, model: Transformer, batch: Batch, state: State, threshold: jax.Array
    ) -> State:
        """After a pass of CAD: what is sure is committed, the surest at least."""
        eligible = self._open(batch.answer, state.hidden)
        seen = of_masked(model, dataclasses.replace(batch, tokens=state.tokens), state.hidden)
        found = objectives.proposals(seen, eligible.reshape(-1), model.config.mask_id)
        token, sure = (array.reshape(eligible.shape) for array in found)
        surest = jnp.arange(eligible.shape[1]) == sure.argmax(axis=1, keepdims=True)
        commit = eligible & ((sure >= threshold) | surest)
        tokens = state.tokens
        if self.shows == "own":
            tokens = jnp.where(commit, token, tokens)
        return State(tokens, state.hidden & ~commit)


def _text(batch: Batch, end_ids: tuple[int, ...]) -> jax.Array:
    """``[batch, length]`` bool: the answer up to its first end, with which decoding stops."""
    ends = batch.answer & stop.is_any_of(batch.tokens, end_ids)
    return batch.answer & (jnp.cumsum(ends, axis=1) - ends == 0)


def of_masked(model: Transformer, batch: Batch, masked: jax.Array) -> objectives.States:
    """What the loss needs of a model that reads the text with some positions masked."""
    noisy = masking.apply(batch.tokens, masked, model.config.mask_id)
    hidden = model.hidden(noisy, batch.valid)
    return objectives.States(hidden.reshape(-1, hidden.shape[-1]), model.head_kernel)
