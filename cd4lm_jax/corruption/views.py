"""Views of a batch: one protocol for masks drawn at random and for states of a rollout."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.runtime.sharding import constrain


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Clean rows of text, and which of their positions are the answer.

    Short rows may share canvases, which are what a model computes. Masks, weights and whatever else
    is said of a row do not depend on that: they are arrays of rows, and `on_canvas` and `of_rows`
    lead to the canvases and back.

    Attributes:
        tokens: `[batch, length]` int32.
        valid: `[batch, length]` bool, False on padding.
        answer: `[batch, length]` bool, positions that may be masked.
        index: `[batch]` int32, the example's stable index in its split.
        starts: `[canvases, rows of each]` int32, the position of each row's first token in the
            canvas that it shares, ascending; None where each row is a canvas.
    """

    tokens: jax.Array
    valid: jax.Array
    answer: jax.Array
    index: jax.Array
    starts: jax.Array | None = None

    @property
    def canvases(self) -> int:
        """How many there are."""
        return (self.index if self.starts is None else self.starts).shape[0]

    def on_canvas(self, rows: jax.Array) -> jax.Array:
        """An array of rows, `[batch, length]`, on their canvases `[canvases, length]`.

        Positions beyond the last row hold whatever is at some row's end.
        """
        if self.starts is None:
            return rows
        segments, position = self._places(self.starts)
        return self._gathered(rows, segments * rows.shape[1] + position)

    def of_rows(self, canvas: jax.Array) -> jax.Array:
        """The inverse of `on_canvas`; positions beyond a row's end are 0."""
        if self.starts is None:
            return canvas
        length = canvas.shape[1]
        place = self.starts[..., None] + jnp.arange(length)
        place = jnp.minimum(place, length - 1).reshape(self.canvases, -1)
        return jnp.where(self.valid, self._gathered(canvas, place).reshape(self.valid.shape), 0)

    @property
    def segments(self) -> jax.Array | None:
        """`[canvases, length]` int32, the row of each position; None where each row is a canvas."""
        if self.starts is None:
            return None
        segments, _ = self._places(self.starts)
        return jnp.where(self.on_canvas(self.valid), segments, self.starts.shape[1])

    def _gathered(self, array: jax.Array, place: jax.Array) -> jax.Array:
        """Of each canvas the values at `place`; no device needs those of another."""
        own = constrain(array.reshape(self.canvases, -1), ("batch", None))
        return constrain(jnp.take_along_axis(own, place, axis=1), ("batch", None))

    def _places(self, starts: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The row of each position of a canvas, and the position in it."""
        place = jnp.arange(self.tokens.shape[1])
        segments = (place >= starts[..., None]).sum(axis=1) - 1
        return segments, place - jnp.take_along_axis(starts, segments, axis=1)


class Views(NamedTuple):
    """What the student and its teacher are shown of one batch, and what is learned there.

    Attributes:
        tokens: `[batch, length]` int32, the token of each position where it is not masked.
        student: `[batch, length]` bool, positions masked for the student.
        teacher: `[batch, length]` bool, positions masked for the teacher; None where these states
            have no view for a teacher.
        weight: `[batch, length]` float32, each position's weight in the loss. Weights that give a
            mean sum to one over the batch.
        divisor: `[batch]` float32, each row's share of the number that weights were divided by. The
            losses of several batches are averaged by their sums of it.
    """

    tokens: jax.Array
    student: jax.Array
    teacher: jax.Array | None
    weight: jax.Array
    divisor: jax.Array

    def averaged(self, rows: int) -> Views:
        """With weights whose loss is the mean of the losses of micro-batches.

        Args:
            rows: of a micro-batch; each one's weights are divided by its own divisor.

        Raises:
            ValueError: the number does not divide the batch.
        """
        batch = self.divisor.shape[0]
        if batch % rows:
            raise ValueError(
                f"micro_batch={rows} does not divide the batch of {batch} rows; give one that does"
            )
        each = jnp.maximum(self.divisor.reshape(-1, rows).sum(axis=1), 1.0)
        share = jnp.maximum(self.divisor.sum(), 1.0) / each / (batch // rows)
        return self._replace(weight=self.weight * jnp.repeat(share, rows)[:, None])


class Models(NamedTuple):
    """What the views may depend on besides the batch.

    Attributes:
        student: with its parameters of this step.
        teacher: frozen; None where the text alone teaches.
        distance: int32, the number of passes that the teacher is ahead of the student.
        parts: the number of parts that a batch is computed in, one after the other.
        progress: the share of training that is done, float32.
    """

    student: Transformer
    teacher: Transformer | None = None
    distance: jax.Array | int = 1
    parts: int = 1
    progress: jax.Array | float = 1.0


class States(Protocol):
    """The noisy states of a text that a student learns from.

    Implementations are frozen dataclasses, hence hashable: they are static under jit.
    """

    @property
    def teaches(self) -> bool:
        """Whether there is a view for a teacher."""

    @property
    def needs_teacher(self) -> str:
        """Why they cannot be had without a teacher, in words of the settings; empty if they can."""

    @property
    def representative(self) -> bool:
        """Whether validation views are distributed as those of training are.

        If not, the loss under them does not say how well the student does what it is trained for.
        """

    def views(self, key: jax.Array, batch: Batch, models: Models) -> Views:
        """The views of one batch at one step.

        Args:
            key: typed key of the step.
            batch: rows. A row without answer positions is not masked and has no weight.
            models: of the step.
        """

    def validation_views(self, key: jax.Array, batch: Batch, models: Models) -> Views:
        """Views that do not change over a run: they depend on key and batch alone."""


def mean_weight(learned: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Equal weights of some positions.

    Args:
        learned: `[batch, length]` bool.

    Returns:
        `weight` and `divisor` of `Views`.
    """
    weight = learned / jnp.maximum(learned.sum(), 1).astype(jnp.float32)
    return weight, learned.sum(axis=1).astype(jnp.float32)


def masked_tokens(tokens: jax.Array, masked: jax.Array, mask_id: int) -> jax.Array:
    """`tokens` `[batch, length]` with `mask_id` at the masked positions."""
    return jnp.where(masked, mask_id, tokens)
