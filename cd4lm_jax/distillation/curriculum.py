"""What changes over training: lambda, the weight of the teacher, and how far ahead it is."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class LambdaCurriculum:
    """Constant for a first share of training, then a half cosine down (CD4LM, section 3.2).

    Attributes:
        initial: lambda at the start: mostly the teacher.
        final: lambda at the end: teacher and text in balance.
        warmup_ratio: the share of steps at `initial`.

    Raises:
        ValueError: a number that is not from 0 to 1.

    >>> weight = LambdaCurriculum(initial=0.9, final=0.5, warmup_ratio=0.1)
    >>> [round(float(weight(step, 100)), 3) for step in (0, 10, 55, 100)]
    [0.9, 0.9, 0.7, 0.5]
    """

    initial: float = 0.9
    final: float = 0.5
    warmup_ratio: float = 0.1

    def __post_init__(self) -> None:
        for name in ("initial", "final", "warmup_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"curriculum.{name}={getattr(self, name)}; give one from 0 to 1")

    def __call__(self, step: jax.Array | int, total_steps: int) -> jax.Array:
        """Lambda at `step` (counted from 0) of `total_steps`."""
        warmup = total_steps * self.warmup_ratio  # not rounded, as published
        progress = (step - warmup) / max(total_steps - warmup, 1)
        progress = jnp.clip(progress, 0.0, 1.0)
        half_cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        return self.final + (self.initial - self.final) * half_cosine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distance:
    """How many passes of decoding the teacher is ahead of the student, growing over training.

    A nearer teacher is easier to follow and knows less; progressive distillation (2202.00512) and
    the curriculum of d3LLM (2601.07568) go from near to far. Each distance gets as many steps.

    Attributes:
        initial: passes at the start.
        final: passes at the end.
    """

    initial: int = 1
    final: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.initial <= self.final:
            raise ValueError(
                f"distance.initial={self.initial} and distance.final={self.final}; give 1 or more, "
                "and a final one that is not less"
            )

    def __call__(self, step: jax.Array | int, total_steps: int) -> jax.Array:
        """Passes at `step` (counted from 0) of `total_steps`, int32."""
        grown = jnp.asarray(step) * (self.final - self.initial + 1) // max(total_steps, 1)
        return jnp.clip(self.initial + grown, self.initial, self.final).astype(jnp.int32)
