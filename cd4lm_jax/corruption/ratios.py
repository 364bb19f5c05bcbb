"""How much of an answer is masked: the published ranges, the cosine rule, the uniform rule."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Answers this short are treated apart (CD4LM, published data collator).
SHORT_ANSWER = 10
SMALL_ANSWER = 20
SMALL_ANSWER_RATIO = 0.5
LEAST_MASKED_SHARE = 0.1


def nested_counts(
    length: jax.Array, student_ratio: jax.Array, teacher_ratio: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Numbers of student and teacher masks, with the published short-answer guards.

    An answer of up to 10 tokens gets two student masks and one teacher mask (as far as it
    reaches); one of under 20 has its student ratio capped at 0.5; any longer one gets at least
    two masks and at least a tenth of its length. The published counts let the teacher have as
    many masks as the student; `cd4lm_jax.corruption.masking.NestedMasks` makes the subset
    strict.

    Args:
        length: answer lengths, int32, any shape.
        student_ratio, teacher_ratio: shares of the answer to mask, float, the same shape.

    Returns:
        `(student, teacher)` counts, int32; `teacher <= student <= length`.

    >>> length = jnp.array([8, 15, 100])
    >>> student, teacher = nested_counts(length, jnp.full(3, 0.9), jnp.full(3, 0.4))
    >>> student.tolist(), teacher.tolist()
    ([2, 7, 90], [1, 6, 40])
    """
    ratio = jnp.where(
        length < SMALL_ANSWER, jnp.minimum(student_ratio, SMALL_ANSWER_RATIO), student_ratio
    )
    least = jnp.maximum(2, jnp.ceil(LEAST_MASKED_SHARE * length).astype(jnp.int32))
    student = jnp.maximum(whole_share(length, ratio), least)
    teacher = jnp.maximum(whole_share(length, teacher_ratio), 1)
    short = length <= SHORT_ANSWER
    student = jnp.minimum(jnp.where(short, 2, student), length)
    teacher = jnp.where(short, 1, teacher)
    return student, jnp.minimum(teacher, student)


def check(name: str, bounds: tuple[float, float]) -> None:
    """Checks a range of shares.

    Args:
        name: of the setting.
        bounds: the lower one first.

    Raises:
        ValueError: bounds that are reversed or not from 0 to 1.
    """
    low, high = bounds
    if not 0 <= low <= high <= 1:
        raise ValueError(f"{name}={bounds}; give two shares of 0 to 1, the lower first")


def whole_share(length: jax.Array, ratio: jax.Array) -> jax.Array:
    """`int(length * ratio)`, int32, of lengths and ratios of one shape."""
    # Truncated as the reference's int() does in float64; the nudge keeps float32 from falling
    # below a product that is whole (0.28 * 25 = 7).
    return jnp.floor(length * ratio + 1e-5).astype(jnp.int32)


def cosine_ratio(time: jax.Array, horizon: int) -> jax.Array:
    """Masked share at diffusion time `time` of `horizon`: `sin^2` of the cosine schedule.

    The independent scheme of the published code (offset 0.008 as Nichol & Dhariwal, 2102.09672).
    """
    return jnp.sin((time / horizon + 0.008) / 1.008 * jnp.pi / 2) ** 2


def uniform_ratio(draw: jax.Array, floor: float = 1e-3) -> jax.Array:
    """Masked share of LLaDA's training: uniform in `[floor, 1]` (2502.09992, appendix B).

    Args:
        draw: uniform numbers in [0, 1).
    """
    return (1.0 - floor) * draw + floor
