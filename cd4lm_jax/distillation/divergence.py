"""How far a student's distribution is from the teacher's: one class for each measure.

Each takes both distributions of some positions and returns its value and its gradient at once,
while the logits are there. Whatever sums over the vocabulary does so along the last axis alone,
which may be split over devices.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Measured(NamedTuple):
    """A divergence of each position.

    Attributes:
        value: `[rows, 1]` float32, in nats (total variation: a probability).
        slope: `[rows, vocab]` float32, its gradient with respect to the student's scores, the
            logits over the temperature.
    """

    value: jax.Array
    slope: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForwardKL:
    """KL(teacher || student): the student covers whatever the teacher deems possible.

    Hinton et al., 1503.02531; CD4LM, 2601.02236, section 3.2.
    """

    def __call__(self, log_t: jax.Array, log_q: jax.Array) -> Measured:
        """The divergence of each position.

        Args:
            log_t: `[rows, vocab]` float32, log-probabilities of the teacher.
            log_q: `[rows, vocab]` float32, those of the student.
        """
        t = jnp.exp(log_t)
        value = (t * (log_t - log_q)).sum(axis=1, keepdims=True)
        return Measured(value, jnp.exp(log_q) - t)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReverseKL:
    """KL(student || teacher): the student may settle on one of several things that are right.

    MiniLLM, 2306.08543; the best of SDTT's (2410.21035), and T3D's (2602.12262).
    """

    def __call__(self, log_t: jax.Array, log_q: jax.Array) -> Measured:
        """As `ForwardKL.__call__`."""
        q, ratio = jnp.exp(log_q), log_q - log_t
        return Measured((q * ratio).sum(axis=1, keepdims=True), _through_softmax(q, ratio))


@dataclasses.dataclass(frozen=True, kw_only=True)
class JensenShannon:
    """Both divergences from the mixture of the two, weighted alike; never above log 2.

    GKD, 2306.13649, at its beta of a half. Bounded, so that no position outweighs the others:
    TSD trains on-policy with it where KL collapses.
    """

    def __call__(self, log_t: jax.Array, log_q: jax.Array) -> Measured:
        """As `ForwardKL.__call__`."""
        log_m = jnp.logaddexp(log_t, log_q) - math.log(2)
        t, q = jnp.exp(log_t), jnp.exp(log_q)
        value = (t * (log_t - log_m) + q * (log_q - log_m)).sum(axis=1, keepdims=True) / 2
        return Measured(value, _through_softmax(q, (log_q - log_m) / 2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TotalVariation:
    """Half the absolute difference: the share of draws in which the two would differ, at least.

    f-DISTILL, 2307.15190. Never above 1, and its gradient is bounded wherever the teacher is wrong.
    """

    def __call__(self, log_t: jax.Array, log_q: jax.Array) -> Measured:
        """As `ForwardKL.__call__`."""
        t, q = jnp.exp(log_t), jnp.exp(log_q)
        value = jnp.abs(t - q).sum(axis=1, keepdims=True) / 2
        return Measured(value, _through_softmax(q, jnp.sign(q - t) / 2))


Divergence = ForwardKL | ReverseKL | JensenShannon | TotalVariation


def _through_softmax(q: jax.Array, slope: jax.Array) -> jax.Array:
    """The gradient with respect to scores from that with respect to probabilities.

    Args:
        q: `[rows, vocab]` float32, softmax of the scores.
        slope: `[rows, vocab]` float32, the gradient with respect to `q`.
    """
    return q * (slope - (q * slope).sum(axis=1, keepdims=True))
