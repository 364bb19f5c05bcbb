"""The order in which the teacher decodes, applied to a text: d3LLM's pseudo-trajectories.

d3LLM (2601.07568) records the order in which its teacher commits a text, one token a pass, and
masks the text as the states on the way did: in a window that grows over training, of which ever
more is masked, with all that follows. Its student learns the text. Here nothing is recorded: the
teacher decodes the window within the update, some tokens a pass.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cd4lm_jax.corruption import draws, ratios
from cd4lm_jax.corruption.views import Batch, Models, Views, mean_weight
from cd4lm_jax.distillation import accumulation
from cd4lm_jax.distillation.projection import hidden_states
from cd4lm_jax.distillation.proposals import proposals
from cd4lm_jax.distillation.rollout import text_of
from cd4lm_jax.models.transformer import Transformer


class Start(NamedTuple):
    """What is drawn for the rows of a batch.

    Attributes:
        inside: `[batch, length]` bool, the window.
        after: `[batch, length]` bool, the answer behind it.
        committed: `[batch, 1]` int32, tokens of the window that the teacher commits.
        complement: `[batch, 1]` bool, those are masked instead of the others.
    """

    inside: jax.Array
    after: jax.Array
    committed: jax.Array
    complement: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoTrajectory:
    """States of the text in the teacher's order of decoding (d3LLM, 2601.07568).

    A window with text is drawn. What is before it is not masked, what follows is. The teacher
    commits the positions of the window that it is surest of, until a share is left: that state is
    what the student is shown, or its complement, either for half of the rows (the published code
    learns both in an update). Learned are the masked positions of the window; the text is learned,
    with a lambda of 0.

    Attributes:
        window: its length at the start of training and at the end, in tokens, linear between.
        ratio: bounds of the share that is left. A row's is drawn between the upper one and a lower
            one that rises to it over training.
        passes: forward passes of the teacher in which a window is committed; as many as the window
            has tokens make the published trajectory, one token a pass.

    Raises:
        ValueError: a number out of its range.
    """

    teaches: ClassVar[bool] = True
    representative: ClassVar[bool] = False
    needs_teacher: ClassVar[str] = (
        "pseudo-trajectories are the teacher's, and there is none: give teacher, its folder"
    )

    window: tuple[int, int] = (16, 32)
    ratio: tuple[float, float] = (0.0, 0.8)
    passes: int = 4

    def __post_init__(self) -> None:
        first, last = self.window
        if not 1 <= first <= last:
            raise ValueError(
                f"corruption.window={self.window}; give two lengths of 1 or more, the lower first"
            )
        if self.passes < 1:
            raise ValueError(f"corruption.passes={self.passes}; give 1 or more")
        ratios.check("corruption.ratio", self.ratio)

    def views(self, key: jax.Array, batch: Batch, models: Models) -> Views:
        """As `States.views`: the teacher decodes, within the update."""
        teacher = models.teacher
        assert teacher is not None  # TrainConfig checks

        def decoded(part: tuple[Batch, Start]) -> jax.Array:
            return self.committed(teacher, *part)

        start = self.start(key, batch, teacher.config.end_ids, models.progress)
        # A forward pass of the whole batch may not fit the memory either.
        committed = accumulation.mapped(decoded, (batch, start), models.parts, batch.canvases)
        return _shown(batch, start, start.inside & (committed == start.complement))

    def validation_views(self, key: jax.Array, batch: Batch, models: Models) -> Views:
        """As `States.validation_views`: last windows before anything is committed, no teacher's."""
        start = self.start(key, batch, models.student.config.end_ids, 1.0)
        return _shown(batch, start, start.inside)._replace(teacher=None)

    def start(
        self,
        key: jax.Array,
        batch: Batch,
        end_ids: tuple[int, ...],
        progress: jax.Array | float,
    ) -> Start:
        """Draws where every row is, from the key of the step.

        Args:
            key: typed.
            batch: rows.
            end_ids: tokens that end a text.
            progress: share of training that is done.
        """
        keys = draws.row_keys(key, batch.index)
        at, ratio, side = draws.per_row(keys, 0, 3).T[..., None]
        first, last = self.window
        length = jnp.floor(first + (last - first) * jnp.asarray(progress)).astype(jnp.int32)
        window = draws.answer_position(batch.answer) // length
        windows = 1 + jnp.where(text_of(batch, end_ids), window, 0).max(axis=1, keepdims=True)
        drawn = jnp.floor(at * windows).astype(jnp.int32)
        low, high = self.ratio
        left = high - (1 - ratio) * (high - low) * (1 - jnp.asarray(progress))
        inside = batch.answer & (window == drawn)
        return Start(
            inside=inside,
            after=batch.answer & (window > drawn),
            committed=ratios.whole_share(inside.sum(axis=1, keepdims=True), 1 - left),
            complement=side < 0.5,
        )

    def committed(self, teacher: Transformer, batch: Batch, start: Start) -> jax.Array:
        """What the teacher commits of the window, `[batch, length]` bool."""

        def step(i: jax.Array, committed: jax.Array) -> jax.Array:
            masked = start.inside & ~committed
            states = hidden_states(teacher, batch, batch.tokens, masked | start.after)
            wanted = batch.on_canvas(masked)
            found = proposals(states, wanted.reshape(-1), teacher.config.mask_id)
            confidence = batch.of_rows(found.confidence.reshape(wanted.shape))
            # In equal parts; what is committed stays the surest.
            count = -(-start.committed * (i + 1) // self.passes)
            order = draws.ranks(-jnp.where(committed, 2.0, jnp.where(masked, confidence, -1.0)))
            return start.inside & (order < count)

        return lax.fori_loop(0, self.passes, step, jnp.zeros_like(start.inside))


def _shown(batch: Batch, start: Start, masked: jax.Array) -> Views:
    """The views where `masked [batch, length]` of the window is learned; no token is revealed."""
    student = masked | start.after
    return Views(batch.tokens, student, student, *mean_weight(masked))
