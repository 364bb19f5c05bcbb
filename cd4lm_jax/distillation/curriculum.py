"""Lambda, the weight of the teacher's distribution against the text, over training."""

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
        warmup_ratio: the share of steps at ``initial``.
    """

    initial: float = 0.9
    final: float = 0.5
    warmup_ratio: float = 0.1

    def __call__(self, step: jax.Array | int, total_steps: int) -> jax.Array:
        """Lambda at ``step`` (counted from 0) of ``total_steps``."""
        warmup = total_steps * self.warmup_ratio  # not rounded, as published
        progress = (step - warmup) / max(total_steps - warmup, 1)
        progress = jnp.clip(progress, 0.0, 1.0)
        half_cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        return self.final + (self.initial - self.final) * half_cosine
