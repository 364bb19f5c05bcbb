"""The DSCD loss: the teacher's distribution and the text, without ever holding all logits.

Hidden states go through the vocabulary projection a chunk of positions at a time, and only
positions with weight are projected at all. Since the loss is a scalar, each chunk's gradient is
formed while its logits are there: nothing is kept, nothing computed twice.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

CHUNK = 1024
"""Positions projected at once: large enough for a full-rate matmul."""

PUBLISHED_CLAMP = 5.0
"""The published code clamps both terms to [0, 5], which stops their gradient above 5."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Settings of the loss (CD4LM, 2601.02236, section 3.2).

    Attributes:
        temperature: softens both distributions in the KL term, which is scaled by its square.
        visible: what is learnt where the teacher sees the token that the student must guess.
            ``teacher`` (published): the teacher's output there, which masked-diffusion training
            never shaped. ``text``: the token itself, so that KL counts only where the teacher
            guesses too and cross-entropy has its full weight elsewhere.
        certainty: weight of the entropy (nats) of positions whose best token is right, beside the
            other terms: the student becomes surer of what it gets right anyway, so that a
            confidence rule commits it earlier (dParallel, 2509.26488). Published DSCD has none.
        clamp: reproduce the published clamp of both terms to [0, 5].
    """

    temperature: float = 2.0
    visible: Literal["teacher", "text"] = "teacher"
    certainty: float = 0.0
    clamp: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(
                f"objective.temperature={self.temperature} must be above 0; 1 leaves the "
                "distributions as they are, the paper's recipe uses 2"
            )
        if not self.certainty >= 0:
            raise ValueError(f"objective.certainty={self.certainty}; give 0 (off) or more")
        if self.clamp and (self.visible != "teacher" or self.certainty):
            raise ValueError(
                f"objective.clamp bounds the published terms, which visible={self.visible!r} and "
                f"certainty={self.certainty} change; give visible=teacher, certainty=0, or no clamp"
            )


class States(NamedTuple):
    """What the loss needs of a model: ``hidden [tokens, embed]`` and ``kernel [embed, vocab]``."""

    hidden: jax.Array
    kernel: jax.Array


class _Settings(NamedTuple):
    """What of :class:`Objective` the chunks need, traced."""

    temperature: jax.Array
    certainty: jax.Array


class Terms(NamedTuple):
    """The loss and its parts, float32 scalars. Only ``total`` carries gradient."""

    total: jax.Array
    kl: jax.Array
    ce: jax.Array


def loss(
    objective: Objective,
    student: States,
    teacher: States | None,
    targets: jax.Array,
    weight: jax.Array,
    lam: jax.Array | float,
    guessed: jax.Array | None = None,
) -> Terms:
    """``lam * KL(teacher || student) * T^2 + (1 - lam) * CE``, weighted over positions.

    ``certainty`` times the entropy of what is right comes on top.

    Args:
        objective: temperature and clamp.
        student: differentiated.
        teacher: frozen; None for cross-entropy alone (``lam`` is then 0).
        targets: ``[tokens]`` int32, the clean text.
        weight: ``[tokens]`` float32; positions of weight 0 are not computed. Weights that sum
            to one give a mean.
        lam: weight of the KL term.
        guessed: ``[tokens]`` bool, hidden from the teacher too; needed for ``visible="text"``.
    """
    lam = jnp.asarray(lam if teacher is not None else 0.0, jnp.float32)
    share = jnp.ones(targets.shape, jnp.float32)
    if objective.visible == "text" and guessed is not None:
        share = guessed.astype(jnp.float32)
    settings = _Settings(
        jnp.asarray(objective.temperature, jnp.float32),
        jnp.asarray(objective.certainty, jnp.float32),
    )
    frozen = teacher and States(*map(lax.stop_gradient, teacher))

    def total(lam: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return _chunked(student, frozen, targets, weight, lam * share, settings)

    if not objective.clamp:
        value, (kl, ce) = total(lam)
        return Terms(value, kl, ce)
    # Each term's gradient stops by itself, so the two are formed apart.
    kl = jnp.clip(total(jnp.float32(1.0))[0], 0.0, PUBLISHED_CLAMP)
    ce = jnp.clip(total(jnp.float32(0.0))[0], 0.0, PUBLISHED_CLAMP)
    return Terms(lam * kl + (1.0 - lam) * ce, kl, ce)


@jax.custom_vjp
def _chunked(
    student: States,
    teacher: States | None,
    targets: jax.Array,
    weight: jax.Array,
    lam: jax.Array,
    settings: _Settings,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _run(student, teacher, targets, weight, lam, settings, with_gradient=False)[0]


def _forward(student, teacher, targets, weight, lam, settings):  # type: ignore[no-untyped-def]
    return _run(student, teacher, targets, weight, lam, settings, with_gradient=True)


def _backward(gradient, cotangent):  # type: ignore[no-untyped-def]
    scale, _ = cotangent  # the parts are reported, not trained on
    scaled = jax.tree.map(lambda g: (g * scale).astype(g.dtype), gradient)
    return scaled, None, None, None, None, None


_chunked.defvjp(_forward, _backward)


def _run(student, teacher, targets, weight, lam, settings, *, with_gradient):  # type: ignore[no-untyped-def]
    """Loops over chunks of the weighted positions; returns the terms and, if asked, gradients."""
    # `lam` is a position's own, the terms are reported over all positions.
    tokens, vocab = targets.shape[0], student.kernel.shape[1]
    temperature, certainty = settings
    chunk = min(CHUNK, tokens)
    padded = -(-tokens // chunk) * chunk
    # Weighted positions first; an index past the end reads as weight 0 and is never written.
    order = jnp.argsort(weight == 0, stable=True)
    order = jnp.pad(order, (0, padded - tokens), constant_values=tokens)
    chunks = -(-(weight != 0).sum() // chunk)

    def project(states: States, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden = states.hidden.at[rows].get(mode="fill", fill_value=0)
        kernel = states.kernel.astype(hidden.dtype)
        return hidden, jnp.dot(hidden, kernel, preferred_element_type=jnp.float32)

    def body(i, carry):  # type: ignore[no-untyped-def]
        total, kl_sum, ce_sum, d_hidden, d_kernel = carry
        rows = lax.dynamic_slice_in_dim(order, i * chunk, chunk)
        w = weight.at[rows].get(mode="fill", fill_value=0)[:, None]
        kl_share = lam.at[rows].get(mode="fill", fill_value=0)[:, None]
        hidden, logits = project(student, rows)
        log_p = jax.nn.log_softmax(logits)
        # Compared rather than gathered: it stays local where the vocabulary is sharded.
        truth = targets.at[rows].get(mode="fill", fill_value=0)[:, None] == jnp.arange(vocab)
        ce = -jnp.where(truth, log_p, 0.0).sum(axis=1, keepdims=True)
        ce_sum += jnp.sum(w * ce)
        total += jnp.sum(w * (1.0 - kl_share) * ce)
        p = jnp.exp(log_p)
        d_logits = (1.0 - kl_share) * (p - truth)
        right = jnp.where(truth, log_p, 0.0).sum(axis=1) >= log_p.max(axis=1)
        sharpen = certainty * right[:, None]
        entropy = -(p * log_p).sum(axis=1, keepdims=True)
        total += jnp.sum(w * sharpen * entropy)
        d_logits -= sharpen * p * (log_p + entropy)
        if teacher is not None:
            log_q = jax.nn.log_softmax(logits / temperature)
            log_t = jax.nn.log_softmax(project(teacher, rows)[1] / temperature)
            t = jnp.exp(log_t)
            kl = temperature**2 * (t * (log_t - log_q)).sum(axis=1, keepdims=True)
            kl_sum += jnp.sum(w * kl)
            total += jnp.sum(w * kl_share * kl)
            d_logits += kl_share * temperature * (jnp.exp(log_q) - t)
        if with_gradient:
            d_logits = (w * d_logits).astype(hidden.dtype)
            rows_gradient = d_logits @ student.kernel.astype(hidden.dtype).T
            d_hidden = d_hidden.at[rows].set(rows_gradient, mode="drop", unique_indices=True)
            d_kernel += jnp.dot(hidden.T, d_logits, preferred_element_type=jnp.float32)
        return total, kl_sum, ce_sum, d_hidden, d_kernel

    zero = jnp.zeros((), jnp.float32)
    gradient = (
        (jnp.zeros_like(student.hidden), jnp.zeros(student.kernel.shape, jnp.float32))
        if with_gradient
        else (zero, zero)
    )
    start = (zero, zero, zero, *gradient)
    total, kl, ce, d_hidden, d_kernel = lax.fori_loop(0, chunks, body, start)
    terms = total, (kl, ce)
    if not with_gradient:
        return terms, None
    return terms, States(d_hidden, d_kernel.astype(student.kernel.dtype))
