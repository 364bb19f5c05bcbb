"""The DSCD loss: the teacher's distribution and the text, without ever holding all logits.

Hidden states go through the vocabulary projection a chunk of positions at a time, and only
positions with weight are projected at all. Since the loss is a scalar, each chunk's gradient is
formed while its logits are there: nothing is kept, nothing computed twice. On a mesh every
device computes its own positions, and the kernel's gradient is summed once, at the end.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from cd4lm_jax.distillation import projection
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.projection import HiddenStates
from cd4lm_jax.runtime.sharding import constrain

PUBLISHED_CLAMP = 5.0
"""The published code clamps both terms to [0, 5], which stops their gradient above 5."""

Sums = tuple[jax.Array, tuple[jax.Array, jax.Array]]
"""The total, and its parts KL and cross-entropy; float32 scalars."""


class Terms(NamedTuple):
    """The loss and its parts, float32 scalars. Only `total` carries gradient.

    Attributes:
        total: the loss.
        kl: whatever divergence was chosen, times the squared temperature; 0 without a teacher.
        ce: cross-entropy of the text, nats.
    """

    total: jax.Array
    kl: jax.Array
    ce: jax.Array


class _Carry(NamedTuple):
    """What the loop over chunks adds up; the gradient is a scalar 0 where none is asked for."""

    total: jax.Array
    kl: jax.Array
    ce: jax.Array
    d_hidden: jax.Array
    d_kernel: jax.Array


def loss(
    objective: Objective,
    student: HiddenStates,
    teacher: HiddenStates | None,
    targets: jax.Array,
    weight: jax.Array,
    lam: jax.Array | float,
    predicted: jax.Array | None = None,
) -> Terms:
    """`lam * KL(teacher || student) * T^2 + (1 - lam) * CE`, weighted over positions.

    The entropy term, where the objective has one, is added to it.

    Args:
        objective: what the terms are.
        student: differentiated.
        teacher: frozen; None for cross-entropy alone (`lam` is then 0).
        targets: `[tokens]` int32, the clean text.
        weight: `[tokens]` float32; positions of weight 0 are not computed. Weights that sum
            to one give a mean.
        lam: weight of the KL term, a scalar.
        predicted: `[tokens]` bool, masked for the teacher too; needed for `visible="text"`.
    """
    lam = jnp.asarray(lam if teacher is not None else 0.0, jnp.float32)
    share = jnp.ones(targets.shape, jnp.float32)
    if objective.visible == "text" and predicted is not None:
        share = predicted.astype(jnp.float32)
    frozen = teacher and HiddenStates(*map(lax.stop_gradient, teacher))

    def total(lam: jax.Array) -> Sums:
        return _chunked(objective, student, frozen, targets, weight, lam * share)

    if not objective.clamp:
        value, (kl, ce) = total(lam)
        return Terms(value, kl, ce)
    # Each term's gradient stops by itself, so the two are formed apart.
    kl = jnp.clip(total(jnp.float32(1.0))[0], 0.0, PUBLISHED_CLAMP)
    ce = jnp.clip(total(jnp.float32(0.0))[0], 0.0, PUBLISHED_CLAMP)
    return Terms(lam * kl + (1.0 - lam) * ce, kl, ce)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(
    objective: Objective,
    student: HiddenStates,
    teacher: HiddenStates | None,
    targets: jax.Array,
    weight: jax.Array,
    lam: jax.Array,
) -> Sums:
    return _run(objective, student, teacher, targets, weight, lam, with_gradient=False)[0]


def _forward(
    objective: Objective,
    student: HiddenStates,
    teacher: HiddenStates | None,
    targets: jax.Array,
    weight: jax.Array,
    lam: jax.Array,
) -> tuple[Sums, HiddenStates | None]:
    return _run(objective, student, teacher, targets, weight, lam, with_gradient=True)


def _backward(
    objective: Objective, gradient: HiddenStates, cotangent: Sums
) -> tuple[HiddenStates, None, None, None, None]:
    del objective
    scale, _ = cotangent  # the parts are reported, not differentiated
    scaled = jax.tree.map(lambda g: (g * scale).astype(g.dtype), gradient)
    return scaled, None, None, None, None


_chunked.defvjp(_forward, _backward)


def _run(
    objective: Objective,
    student: HiddenStates,
    teacher: HiddenStates | None,
    targets: jax.Array,
    weight: jax.Array,
    lam: jax.Array,
    *,
    with_gradient: bool,
) -> tuple[Sums, HiddenStates | None]:
    """The terms over all positions and, if asked, the student's gradient.

    Args:
        objective: what the terms are.
        student: hidden states `[tokens, embed]` and kernel `[embed, vocab]`.
        teacher: likewise.
        targets: `[tokens]` int32.
        weight: `[tokens]` float32.
        lam: `[tokens]` float32, each position's weight of KL.
        with_gradient: also form the gradient.
    """
    axes = projection.position_axes(targets.shape[0])
    expert = teacher and projection.gathered_kernel(teacher)
    run = functools.partial(_of_own_positions, objective, axes, with_gradient=with_gradient)
    if axes:
        # The axis that splits the vocabulary is left to XLA; the logits are constrained to it.
        own, same = PartitionSpec(axes), PartitionSpec()
        states = HiddenStates(own, same)  # type: ignore[arg-type]
        run = jax.shard_map(
            run,
            in_specs=(states, expert and states, own, own, own),
            out_specs=(same, states if with_gradient else None),
            axis_names=set(axes),
            check_vma=False,
        )
    terms, gradient = run(projection.gathered_kernel(student), expert, targets, weight, lam)
    if gradient is None:
        return terms, None
    # Split as the kernel is, at once: the sum over devices can then be scattered.
    d_kernel = constrain(gradient.kernel, ("embed", "vocab"))
    return terms, HiddenStates(gradient.hidden, d_kernel.astype(student.kernel.dtype))


def _of_own_positions(
    objective: Objective,
    axes: tuple[str, ...],
    student: HiddenStates,
    teacher: HiddenStates | None,
    targets: jax.Array,
    weight: jax.Array,
    lam: jax.Array,
    *,
    with_gradient: bool,
) -> tuple[Sums, HiddenStates | None]:
    """Loops over chunks of a device's weighted positions; sums over `axes` at the end.

    Shapes are those of `_run`, of the device's positions; the kernels are in the compute dtype.
    """
    tokens, temperature = targets.shape[0], objective.temperature
    width, vocab = student.kernel.shape
    chunk = projection.chunk_size(tokens, width, vocab)
    order, chunks = projection.in_chunks(weight != 0, chunk, axes)

    def body(i: jax.Array, carry: _Carry) -> _Carry:
        """Of one chunk; every array is `[chunk, 1]` or `[chunk, vocab]`."""
        total, kl_sum, ce_sum, d_hidden, d_kernel = carry
        rows = lax.dynamic_slice_in_dim(order, i * chunk, chunk)
        w = weight.at[rows].get(mode="fill", fill_value=0)[:, None]
        kl_share = lam.at[rows].get(mode="fill", fill_value=0)[:, None]
        hidden, logits = projection.project(student, rows)
        log_p = jax.nn.log_softmax(logits)
        if teacher is not None:
            log_q = jax.nn.log_softmax(logits / temperature)
            log_t = jax.nn.log_softmax(projection.project(teacher, rows)[1] / temperature)
            if objective.confidence:
                kl_share *= jnp.exp(objective.confidence * log_t.max(axis=1, keepdims=True))
        # Compared rather than gathered: it stays local where the vocabulary is sharded.
        truth = targets.at[rows].get(mode="fill", fill_value=0)[:, None] == jnp.arange(vocab)
        log_truth = jnp.where(truth, log_p, 0.0).sum(axis=1, keepdims=True)
        ce_sum -= jnp.sum(w * log_truth)
        total -= jnp.sum(w * (1.0 - kl_share) * log_truth)
        d_logits = (1.0 - kl_share) * (jnp.exp(log_p) - truth)
        if objective.entropy_weight:
            p = jnp.exp(log_p)
            right = log_truth >= log_p.max(axis=1, keepdims=True)
            sharpen = objective.entropy_weight * right
            entropy = -(p * log_p).sum(axis=1, keepdims=True)
            total += jnp.sum(w * sharpen * entropy)
            d_logits -= sharpen * p * (log_p + entropy)
        if teacher is not None:
            value, slope = objective.divergence(log_t, log_q)
            kl = temperature**2 * value
            kl_sum += jnp.sum(w * kl)
            total += jnp.sum(w * kl_share * kl)
            d_logits += kl_share * temperature * slope
        if with_gradient:
            d_logits = (w * d_logits).astype(hidden.dtype)
            d_rows = d_logits @ student.kernel.T
            d_hidden = d_hidden.at[rows].set(d_rows, mode="drop", unique_indices=True)
            d_kernel += jnp.dot(hidden.T, d_logits, preferred_element_type=jnp.float32)
        return _Carry(total, kl_sum, ce_sum, d_hidden, d_kernel)

    zero = jnp.zeros((), jnp.float32)
    gradient: Any = (zero, zero)
    if with_gradient:
        d_kernel = constrain(jnp.zeros((width, vocab), jnp.float32), (None, "vocab"))
        gradient = (jnp.zeros_like(student.hidden), d_kernel)
    end = lax.fori_loop(0, chunks, body, _Carry(zero, zero, zero, *gradient))
    terms, d_kernel = (end.total, (end.kl, end.ce)), end.d_kernel
    if axes:
        terms, d_kernel = lax.psum((terms, d_kernel), axes)
    return terms, HiddenStates(end.d_hidden, d_kernel) if with_gradient else None
