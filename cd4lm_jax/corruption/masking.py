"""Which answer positions are masked, for the student and for its teacher.

Everything is vectorised over the batch and runs inside jit. What is random for an example comes
from ``fold_in(fold_in(key, step), example index)`` and is indexed by the position within the
answer, so masks depend neither on the mesh, the batch's grouping and padding, nor on a restart.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from cd4lm_jax.corruption import ratios

Scheme = Literal["nested", "independent", "diffusion"]


class Views(NamedTuple):
    """Two noisy views of one batch, as masks ``[batch, length]``.

    Attributes:
        student: positions hidden from the student.
        teacher: positions hidden from the teacher (all False where the scheme has none).
        weight: float32, each position's weight in the loss; sums to one over the batch.
    """

    student: jax.Array
    teacher: jax.Array
    weight: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corruption:
    """How clean answers become noisy.

    Attributes:
        scheme: ``nested`` (CD4LM's default: the teacher's masks are a strict subset of the
            student's), ``independent`` (CD4LM's other mode: two diffusion times, the teacher's
            the earlier), or ``diffusion`` (LLaDA's supervised fine-tuning, no teacher).
        student_ratio: nested: range of the student's masked share.
        teacher_share: nested: range of the teacher's share of the student's ratio.
        teacher_ratio: nested: bounds that the teacher's ratio is clipped to.
        horizon: independent: number of diffusion times.
        blockwise: share of rows whose masks take the shape of states that block decoding visits:
            all that lies after a block is hidden, a part of the block, nothing before it.
        block_length: of those rows, in tokens; 1 hides everything from a random position on.
        weighting: diffusion: ``elbo`` weighs a masked token by 1 / masked share and divides by
            the answer's length (LLaDA); ``mean`` is the plain mean over masked tokens.
    """

    scheme: Scheme = "nested"
    student_ratio: tuple[float, float] = (0.4, 0.9)
    teacher_share: tuple[float, float] = (0.3, 0.7)
    teacher_ratio: tuple[float, float] = (0.1, 0.6)
    horizon: int = 1000
    blockwise: float = 0.0
    block_length: int = 1
    weighting: Literal["elbo", "mean"] = "elbo"

    def views(self, key: jax.Array, index: jax.Array, answer: jax.Array) -> Views:
        """Draws the masks of one batch.

        Args:
            key: typed key of this step: ``fold_in(key(seed), step)``.
            index: ``[batch]`` int32, each example's stable index.
            answer: ``[batch, length]`` bool, positions that may be masked. A row without any
                is left alone and has no weight.
        """
        keys = row_keys(key, index)
        scheme = {"nested": nested, "independent": independent, "diffusion": diffusion}
        return scheme[self.scheme](self, keys, answer)


def nested(settings: Corruption, keys: jax.Array, answer: jax.Array) -> Views:
    """One random order an answer; the student hides its first n, the teacher the first m < n.

    CD4LM (2601.02236), section 3.1 and the published collator. Where the published counts make
    both sets equal (possible for answers of 11 to 19 tokens) the teacher sees one token more.
    """
    length = answer.sum(axis=1)
    draws = per_row(keys, 0, 3)
    student_ratio = between(draws[:, 0], settings.student_ratio)
    teacher_ratio = student_ratio * between(draws[:, 1], settings.teacher_share)
    teacher_ratio = jnp.clip(teacher_ratio, *settings.teacher_ratio)
    n_student, n_teacher = ratios.nested_counts(length, student_ratio, teacher_ratio)
    n_teacher = jnp.where(length >= 2, jnp.minimum(n_teacher, n_student - 1), n_teacher)
    blockwise = draws[:, 2] < settings.blockwise
    order = _order(keys, answer, jnp.where(blockwise, settings.block_length, answer.shape[1]))
    student = answer & (order < n_student[:, None])
    teacher = answer & (order < n_teacher[:, None])
    return Views(student, teacher, mean_weight(student))


def independent(settings: Corruption, keys: jax.Array, answer: jax.Array) -> Views:
    """Times ``t`` and ``t' < t``, masks drawn apart by the cosine ratio; loss on all the answer."""

    def times(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        late_key, early_key = jax.random.split(jax.random.fold_in(key, 0))
        late = jax.random.randint(late_key, (), 1, settings.horizon + 1)
        return late, jax.random.randint(early_key, (), 0, late)

    late, early = jax.vmap(times)(keys)
    student = per_position(keys, 1, answer) < ratios.cosine_ratio(late, settings.horizon)[:, None]
    teacher = per_position(keys, 2, answer) < ratios.cosine_ratio(early, settings.horizon)[:, None]
    return Views(answer & student, answer & teacher, mean_weight(answer))


def diffusion(settings: Corruption, keys: jax.Array, answer: jax.Array) -> Views:
    """LLaDA's fine-tuning noise: each answer token is hidden with a probability of its row's own.

    At least one token is always hidden. ``blockwise`` rows hide a number of tokens instead that
    is uniform from 1 to all.
    """
    length = answer.sum(axis=1, keepdims=True)
    draws = per_row(keys, 0, 3)
    ratio = ratios.uniform_ratio(draws[:, :1])
    blockwise = draws[:, 2:] < settings.blockwise
    order = _order(keys, answer, jnp.where(blockwise, settings.block_length, answer.shape[1])[:, 0])
    uniform = (per_position(keys, 2, answer) < ratio) | (order == 0)
    hidden = length - jnp.floor(draws[:, 1:2] * length).astype(jnp.int32)
    student = answer & jnp.where(blockwise, order < hidden, uniform)
    if settings.weighting == "mean":
        weight = mean_weight(student)
    else:
        share = jnp.where(blockwise, hidden / jnp.maximum(length, 1), ratio)
        rows = jnp.maximum((length > 0).sum(), 1)
        weight = student / (share * jnp.maximum(length, 1) * rows)
    return Views(student, jnp.zeros_like(student), weight)


def apply(tokens: jax.Array, masked: jax.Array, mask_id: int) -> jax.Array:
    """``tokens`` with ``mask_id`` at the masked positions."""
    return jnp.where(masked, mask_id, tokens)


def mean_weight(masked: jax.Array) -> jax.Array:
    """``[batch, length]`` float32, alike for all masked positions of the batch; sums to one."""
    return masked / jnp.maximum(masked.sum(), 1).astype(jnp.float32)


def between(draw: jax.Array, bounds: tuple[float, float]) -> jax.Array:
    """A uniform number of 0 to 1 as one between bounds."""
    low, high = bounds
    return low + (high - low) * draw


def answer_position(answer: jax.Array) -> jax.Array:
    """``[batch, length]`` int32: each position's place within its row's answer, 0 before it."""
    return jnp.maximum(jnp.cumsum(answer, axis=1) - 1, 0)


def row_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """What is random for each example of a step: ``[batch]`` typed keys."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def per_row(keys: jax.Array, stream: int, count: int) -> jax.Array:
    """``[batch, count]`` uniform numbers of each row's own; streams are independent."""
    draw = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, stream), (count,)))
    return draw(keys)


def per_position(keys: jax.Array, stream: int, answer: jax.Array) -> jax.Array:
    """Uniform numbers that belong to the position within the answer, however it is padded."""
    draws = per_row(keys, stream, answer.shape[1])
    return jnp.take_along_axis(draws, answer_position(answer), axis=1)


def _order(keys: jax.Array, answer: jax.Array, block_length: jax.Array) -> jax.Array:
    """Each answer position's place ``[batch, length]`` in the order in which they are hidden.

    The last block comes first, then the one before it; within a block the order is random. With
    one block for all that is a random order.
    """
    blocks_from_last = jnp.where(answer, -(answer_position(answer) // block_length[:, None]), 1)
    hidden_first = jnp.lexsort((per_position(keys, 1, answer), blocks_from_last))
    return jnp.argsort(hidden_first, axis=1)
