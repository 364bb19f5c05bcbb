"""States that a policy visits when it decodes the text it learns from.

Masks drawn at random are rarely what a decoder meets: it first commits positions of high
confidence, and those that stay masked are the hard ones. Here a model takes a few passes of CAD on
a batch, within the update itself. Nothing is recorded or kept between steps: the states follow from
parameters, seed, step and example, for any text, any mesh and after any restart, at the cost of
those passes.

On a model's own answers these are exactly the states of its own decode. On other text, the order is
the policy's and the tokens are the text's, as in d3LLM's pseudo-trajectories (2601.07568); or the
tokens are the policy's too.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cd4lm_jax.corruption import draws, ratios
from cd4lm_jax.corruption.views import Batch, Models, Views, masked_tokens, mean_weight
from cd4lm_jax.decoding import stop
from cd4lm_jax.distillation import accumulation
from cd4lm_jax.distillation.projection import with_kernel
from cd4lm_jax.distillation.proposals import proposals
from cd4lm_jax.models.attention import attention_groups
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.transformer import Transformer


class Start(NamedTuple):
    """Where the rows of a batch are when the policy begins to decode them.

    Attributes:
        masked: `[batch, length]` bool.
        passes: `[batch, 1]` int32, the number to take.
        threshold: `[batch, 1]` float32, of CAD.
        reveal: `[batch, length]` float32, 0 or more where the teacher is shown a token that is
            committed in the passes that it is ahead; of a row's positions the highest first.
    """

    masked: jax.Array
    passes: jax.Array
    threshold: jax.Array
    reveal: jax.Array


class State(NamedTuple):
    """Where the rows of a batch are.

    Attributes:
        tokens: `[batch, length]` int32, the token of each position where it is not masked.
        masked: `[batch, length]` bool.
    """

    tokens: jax.Array
    masked: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """The states of a policy's own CAD on the text (on-policy: GKD, 2306.13649).

    A block with text is drawn. What is before it is not masked, it and what follows is; then up to
    `passes - 1` passes are taken. What is learned are the masked positions of the block that the
    next pass works on, since those alone can be committed there.

    Attributes:
        policy: whose passes: `student` (on-policy: the states change as it learns) or `teacher`.
        tokens: what is put where a token is committed: the token of the `text`, or the `policy`'s.
            Where several continuations are right, the student then settles on one, for the teacher
            continues what the student began. Learned is what the teacher predicts, not what it was
            shown; the text, which may continue differently, is best left out (a lambda of 1).
        reveal_ratio: range of the share of the tokens committed in the passes ahead that the
            teacher is shown; a row's share is drawn from it. Of the `policy`'s tokens a student
            could never learn better ones if all were shown.
        passes: states to draw from: those before the first so many passes. A step costs up to
            `passes - 1` forward passes for them, and with a teacher its distance's.
        threshold: of CAD, the range that each row's is drawn from.
        block_length: of decoding; that of the model where its attention is by blocks.

    Raises:
        ValueError: a number out of its range.
    """

    teaches: ClassVar[bool] = True
    representative: ClassVar[bool] = False

    policy: Literal["student", "teacher"] = "student"
    tokens: Literal["text", "policy"] = "text"
    reveal_ratio: tuple[float, float] = (1.0, 1.0)
    passes: int = 3
    threshold: tuple[float, float] = (0.5, 0.95)
    block_length: int = 32

    def __post_init__(self) -> None:
        if self.passes < 1 or self.block_length < 1:
            raise ValueError(
                f"corruption.passes={self.passes} and corruption.block_length={self.block_length}; "
                "give 1 or more of each"
            )
        for name in ("threshold", "reveal_ratio"):
            ratios.check(f"corruption.{name}", getattr(self, name))

    @property
    def needs_teacher(self) -> str:
        """As `States.needs_teacher`."""
        if self.policy == "teacher":
            return (
                "policy=teacher takes the teacher's passes, and there is none: give teacher, its "
                "folder, or corruption.policy=student"
            )
        if self.tokens == "policy":
            return (
                "tokens=policy leaves the text, and there is no teacher to continue from the "
                "student's tokens: give teacher, its folder, or corruption.tokens=text"
            )
        return ""

    def views(self, key: jax.Array, batch: Batch, models: Models) -> Views:
        """As `States.views`: the policy decodes, within the update."""
        teacher = models.teacher
        policy = models.student if self.policy == "student" else teacher
        assert policy is not None  # TrainConfig checks

        def decoded(part: tuple[Batch, Start]) -> tuple[jax.Array, jax.Array, jax.Array]:
            batch, start = part
            student = self.student(policy, batch, start)
            if teacher is None:
                return student.tokens, student.masked, jnp.zeros_like(student.masked)
            ahead = self.teacher(policy, batch, start, student, models.distance)
            return ahead.tokens, student.masked, ahead.masked

        config = policy.config
        start = self.start(key, batch, config)
        # A forward pass of the whole batch may not fit the memory either.
        seen = accumulation.mapped(decoded, (batch, start), models.parts, batch.canvases)
        return self.shown(batch, config, *seen)

    def validation_views(self, key: jax.Array, batch: Batch, models: Models) -> Views:
        """As `States.validation_views`: the first states of blocks, on the text, no teacher's."""
        config = models.student.config
        masked = self.start(key, batch, config).masked
        return self.shown(batch, config, batch.tokens, masked, masked)._replace(teacher=None)

    def start(self, key: jax.Array, batch: Batch, config: ModelConfig) -> Start:
        """Draws where every row begins, from the key of the step; `config`: of the models."""
        keys = draws.row_keys(key, batch.index)
        block_at, pass_at, threshold = draws.per_row(keys, 0, 3).T[..., None]
        share = draws.between(draws.per_row(keys, 1, 1), self.reveal_ratio)
        block = self._block(batch, config)
        blocks = 1 + jnp.where(text_of(batch, config.end_ids), block, 0).max(axis=1, keepdims=True)
        return Start(
            masked=batch.answer & (block >= jnp.floor(block_at * blocks).astype(jnp.int32)),
            passes=jnp.floor(pass_at * self.passes).astype(jnp.int32),
            threshold=draws.between(threshold, self.threshold),
            reveal=share - draws.per_position(keys, 2, batch.answer),
        )

    def student(self, policy: Transformer, batch: Batch, start: Start) -> State:
        """After the passes that each row takes.

        A row whose text would be complete stops before.
        """
        text = text_of(batch, policy.config.end_ids)

        def step(i: jax.Array, state: State) -> State:
            after = self._advance(policy, batch, state, start.threshold)
            go_on = (i < start.passes) & (after.masked & text).any(axis=1, keepdims=True)
            return jax.tree.map(lambda new, old: jnp.where(go_on, new, old), after, state)

        begun = State(batch.tokens, start.masked)
        return lax.fori_loop(0, start.passes.max(), step, begun)

    def teacher(
        self,
        policy: Transformer,
        batch: Batch,
        start: Start,
        student: State,
        distance: jax.Array | int,
    ) -> State:
        """What the teacher is shown: a share of the tokens of `distance` further passes.

        At least one token more than the student is shown in any row with text.
        """

        def step(_: jax.Array, state: State) -> State:
            return self._advance(policy, batch, state, start.threshold)

        ahead = lax.fori_loop(0, distance, step, student)
        new = student.masked & ~ahead.masked
        order = jnp.where(new, start.reveal, -jnp.inf)
        first = jnp.arange(new.shape[1]) == order.argmax(axis=1, keepdims=True)
        revealed = new & ((order >= 0) | first)
        return State(
            tokens=jnp.where(revealed, ahead.tokens, student.tokens),
            masked=student.masked & ~revealed,
        )

    def shown(
        self,
        batch: Batch,
        config: ModelConfig,
        tokens: jax.Array,
        student: jax.Array,
        teacher: jax.Array,
    ) -> Views:
        """The views of these tokens and masks, `[batch, length]` each; `config`: of the models.

        Weight is on what the student's next pass can commit; of the policy's tokens, on those alone
        that the teacher predicts.
        """
        learned = self._open(batch, config, student)
        if self.tokens == "policy":
            learned &= teacher
        return Views(tokens, student, teacher, *mean_weight(learned))

    def _block(self, batch: Batch, config: ModelConfig) -> jax.Array:
        """The block of each position of the answer, counted from its first; `[batch, length]`."""
        if config.attention != "block":
            return draws.answer_position(batch.answer) // self.block_length
        block = attention_groups(config, batch.valid)
        assert block is not None
        first = jnp.where(batch.answer, block, block.shape[1]).min(axis=1, keepdims=True)
        return block - first

    def _open(self, batch: Batch, config: ModelConfig, masked: jax.Array) -> jax.Array:
        """The masked positions of each row's first block that has any."""
        block = self._block(batch, config)
        active = jnp.where(masked, block, masked.shape[1]).min(axis=1, keepdims=True)
        return masked & (block == active)

    def _advance(
        self, policy: Transformer, batch: Batch, state: State, threshold: jax.Array
    ) -> State:
        """After a pass of CAD: commits what reaches the threshold, the best position at least."""
        eligible = self._open(batch, policy.config, state.masked)
        # What is before the open block is not masked, so no clean copy of it is needed.
        noisy = masked_tokens(state.tokens, state.masked, policy.config.mask_id)
        noisy, valid = batch.on_canvas(noisy), batch.on_canvas(batch.valid)
        states = with_kernel(policy, policy.hidden(noisy, valid, segments=batch.segments))
        wanted = batch.on_canvas(eligible)
        found = proposals(states, wanted.reshape(-1), policy.config.mask_id)
        token, confidence = (batch.of_rows(array.reshape(wanted.shape)) for array in found)
        best = jnp.arange(eligible.shape[1]) == confidence.argmax(axis=1, keepdims=True)
        commit = eligible & ((confidence >= threshold) | best)
        tokens = state.tokens
        if self.tokens == "policy":
            tokens = jnp.where(commit, token, tokens)
        return State(tokens, state.masked & ~commit)


def text_of(batch: Batch, end_ids: tuple[int, ...]) -> jax.Array:
    """The answer up to its first end token, with which decoding stops; bool `[batch, length]`."""
    ends = batch.answer & stop.is_any_of(batch.tokens, end_ids)
    return batch.answer & (jnp.cumsum(ends, axis=1) - ends == 0)
