"""Masks drawn at random: the schemes of CD4LM and LLaDA's diffusion noise.

Everything is vectorised over the batch and runs inside jit; see `draws` for what masks depend on.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from cd4lm_jax.corruption import draws, ratios
from cd4lm_jax.corruption.views import Batch, Models, Views, mean_weight


@dataclasses.dataclass(frozen=True, kw_only=True)
class NestedMasks:
    """One random order of an answer; the first n positions are masked for the student.

    For the teacher the first m < n are, a strict subset (CD4LM, 2601.02236, section 3.1 and the
    published collator). Where the published counts make both sets equal, which is possible for
    answers of 11 to 19 tokens, the teacher is shown one token more. The loss is a mean over the
    student's masks.

    Attributes:
        student_ratio: range of the student's masked share.
        teacher_share: range of the teacher's share of the student's ratio.
        teacher_ratio: bounds that the teacher's ratio is clipped to.
        blockwise: share of rows whose masks have the shape of states that block decoding visits:
            everything after a block is masked, a part of the block, nothing before it.
        block_length: of those rows, in tokens; 1 masks everything from a random position on.

    Raises:
        ValueError: ratios that are reversed or not from 0 to 1, or a block without tokens.
    """

    teaches: ClassVar[bool] = True
    needs_teacher: ClassVar[str] = ""
    representative: ClassVar[bool] = True

    student_ratio: tuple[float, float] = (0.4, 0.9)
    teacher_share: tuple[float, float] = (0.3, 0.7)
    teacher_ratio: tuple[float, float] = (0.1, 0.6)
    blockwise: float = 0.0
    block_length: int = 1

    def __post_init__(self) -> None:
        for name in ("student_ratio", "teacher_share", "teacher_ratio"):
            ratios.check(f"corruption.{name}", getattr(self, name))
        _check_blocks(self.blockwise, self.block_length)

    def views(self, key: jax.Array, batch: Batch, models: Models | None = None) -> Views:
        """As `States.views`; depends on no model."""
        keys, answer = draws.row_keys(key, batch.index), batch.answer
        length = answer.sum(axis=1)
        uniform = draws.per_row(keys, 0, 3)
        student_ratio = draws.between(uniform[:, 0], self.student_ratio)
        teacher_ratio = student_ratio * draws.between(uniform[:, 1], self.teacher_share)
        teacher_ratio = jnp.clip(teacher_ratio, *self.teacher_ratio)
        n_student, n_teacher = ratios.nested_counts(length, student_ratio, teacher_ratio)
        n_teacher = jnp.where(length >= 2, jnp.minimum(n_teacher, n_student - 1), n_teacher)
        blockwise = uniform[:, 2] < self.blockwise
        order = draws.masking_order(
            keys, answer, jnp.where(blockwise, self.block_length, answer.shape[1])
        )
        student = answer & (order < n_student[:, None])
        teacher = answer & (order < n_teacher[:, None])
        return Views(batch.tokens, student, teacher, *mean_weight(student))

    def validation_views(self, key: jax.Array, batch: Batch, models: Models | None = None) -> Views:
        """As `States.validation_views`."""
        return self.views(key, batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndependentMasks:
    """Two diffusion times, the teacher's the earlier; masks drawn apart by the cosine ratio.

    CD4LM's other mode. The loss is a mean over the whole answer.

    Attributes:
        horizon: number of diffusion times.
        sampling: `exact` (published): `int(length * ratio)` positions of the answer are masked.
            `bernoulli`: each position is masked with that probability.

    Raises:
        ValueError: a horizon without times.
    """

    teaches: ClassVar[bool] = True
    needs_teacher: ClassVar[str] = ""
    representative: ClassVar[bool] = True

    horizon: int = 1000
    sampling: Literal["exact", "bernoulli"] = "exact"

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ValueError(f"corruption.horizon={self.horizon}; give 1 time or more")

    def views(self, key: jax.Array, batch: Batch, models: Models | None = None) -> Views:
        """As `States.views`; depends on no model."""
        keys, answer = draws.row_keys(key, batch.index), batch.answer

        def times(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            late_key, early_key = jax.random.split(jax.random.fold_in(key, 0))
            late = jax.random.randint(late_key, (), 1, self.horizon + 1)
            return late, jax.random.randint(early_key, (), 0, late)

        def drawn(stream: int, time: jax.Array) -> jax.Array:
            ratio = ratios.cosine_ratio(time, self.horizon)
            uniform = draws.per_position(keys, stream, answer)
            if self.sampling == "bernoulli":
                return answer & (uniform < ratio[:, None])
            count = ratios.whole_share(answer.sum(axis=1), ratio)
            return answer & (draws.ranks(jnp.where(answer, uniform, 2.0)) < count[:, None])

        late, early = jax.vmap(times)(keys)
        return Views(batch.tokens, drawn(1, late), drawn(2, early), *mean_weight(answer))

    def validation_views(self, key: jax.Array, batch: Batch, models: Models | None = None) -> Views:
        """As `States.validation_views`."""
        return self.views(key, batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionMasks:
    """LLaDA's fine-tuning noise: a row's positions are masked with the row's probability.

    At least one position is always masked. There is no view for a teacher.

    Attributes:
        blockwise: as of `NestedMasks`; such rows mask a number of tokens that is uniform from 1 to
            all.
        block_length: of those rows, in tokens.
        weighting: `elbo` weights a masked token by 1 / masked share and divides by the answer's
            length (LLaDA); `mean` is the plain mean over masked tokens.

    Raises:
        ValueError: a share that is not from 0 to 1, or a block without tokens.
    """

    teaches: ClassVar[bool] = False
    needs_teacher: ClassVar[str] = ""
    representative: ClassVar[bool] = True

    blockwise: float = 0.0
    block_length: int = 1
    weighting: Literal["elbo", "mean"] = "elbo"

    def __post_init__(self) -> None:
        _check_blocks(self.blockwise, self.block_length)

    def views(self, key: jax.Array, batch: Batch, models: Models | None = None) -> Views:
        """As `States.views`; depends on no model."""
        keys, answer = draws.row_keys(key, batch.index), batch.answer
        length = answer.sum(axis=1, keepdims=True)
        uniform = draws.per_row(keys, 0, 3)
        ratio = ratios.uniform_ratio(uniform[:, :1])
        blockwise = uniform[:, 2:] < self.blockwise
        order = draws.masking_order(
            keys, answer, jnp.where(blockwise, self.block_length, answer.shape[1])[:, 0]
        )
        anywhere = (draws.per_position(keys, 2, answer) < ratio) | (order == 0)
        number = length - jnp.floor(uniform[:, 1:2] * length).astype(jnp.int32)
        student = answer & jnp.where(blockwise, order < number, anywhere)
        if self.weighting == "mean":
            return Views(batch.tokens, student, None, *mean_weight(student))
        share = jnp.where(blockwise, number / jnp.maximum(length, 1), ratio)
        rows = jnp.maximum((length > 0).sum(), 1)
        weight = student / (share * jnp.maximum(length, 1) * rows)
        divisor = (length[:, 0] > 0).astype(jnp.float32)
        return Views(batch.tokens, student, None, weight, divisor)

    def validation_views(self, key: jax.Array, batch: Batch, models: Models | None = None) -> Views:
        """As `States.validation_views`."""
        return self.views(key, batch)


def _check_blocks(blockwise: float, block_length: int) -> None:
    if not 0 <= blockwise <= 1:
        raise ValueError(f"corruption.blockwise={blockwise}; give a share of rows from 0 to 1")
    if block_length < 1:
        raise ValueError(f"corruption.block_length={block_length}; give 1 token or more")
