"""The DSCD loss: the teacher's distribution and the text, without ever holding all logits.

Its parts are chosen one by one; with their defaults they are the published recipe.

Hidden states go through the vocabulary projection a chunk of positions at a time, and only
positions with weight are projected at all. Since the loss is a scalar, each chunk's gradient is
formed while its logits are there: nothing is kept, nothing computed twice. On a mesh every
device works off its own positions, and the kernel's gradient is summed once, at the end.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from cd4lm_jax.distillation.divergence import Divergence, ForwardKL
from cd4lm_jax.runtime.sharding import constrain, spec

MAX_CHUNK = 1024
"""Positions projected at once, at most: enough for a full-rate matmul."""

PUBLISHED_CLAMP = 5.0
"""The published code clamps both terms to [0, 5], which stops their gradient above 5."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Settings of the loss (CD4LM, 2601.02236, section 3.2).

    Attributes:
        divergence: how far the student's distribution is from the teacher's; "KL" below.
        temperature: softens both distributions in the KL term, which is scaled by its square.
        visible: what is learnt where the teacher sees the token that the student must guess.
            ``teacher`` (published): the teacher's output there, which masked-diffusion training
            never shaped. ``text``: the token itself, so that KL counts only where the teacher
            guesses too and cross-entropy has its full weight elsewhere.
        confidence: KL counts by the teacher's greatest probability to this power, and the text by
            what is left: where the teacher hesitates, the text is learnt (after CForce,
            2608.13925). 0 counts all positions alike, as published.
        certainty: weight of the entropy (nats) of positions whose best token is right, beside the
            other terms: the student becomes surer of what it gets right anyway, so that a
            confidence rule commits it earlier (dParallel, 2509.26488). Published DSCD has none.
        clamp: reproduce the published clamp of both terms to [0, 5].
    """

    divergence: Divergence = ForwardKL()
    temperature: float = 2.0
    visible: Literal["teacher", "text"] = "teacher"
    confidence: float = 0.0
    certainty: float = 0.0
    clamp: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(
                f"objective.temperature={self.temperature} must be above 0; 1 leaves the "
                "distributions as they are, the paper's recipe uses 2"
            )
        for name in ("confidence", "certainty"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"objective.{name}={getattr(self, name)}; give 0 (off) or more")
        plain = dataclasses.replace(self, clamp=False) if self.clamp else None
        if plain and plain != Objective(temperature=self.temperature):
            raise ValueError(
                f"objective.clamp bounds the published terms, which {plain} changes; leave all but "
                "temperature at their defaults, or give no clamp"
            )


class States(NamedTuple):
    """What the loss needs of a model: ``hidden [tokens, embed]`` and ``kernel [embed, vocab]``."""

    hidden: jax.Array
    kernel: jax.Array


class Terms(NamedTuple):
    """The loss and its parts, float32 scalars. Only ``total`` carries gradient.

    ``kl`` is whatever divergence was chosen.
    """

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
        objective: what the terms are.
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
    frozen = teacher and States(*map(lax.stop_gradient, teacher))

    def total(lam: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
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
    student: States,
    teacher: States | None,
    targets: jax.Array,
    weight: jax.Array,
    lam: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _run(objective, student, teacher, targets, weight, lam, with_gradient=False)[0]


def _forward(objective, student, teacher, targets, weight, lam):  # type: ignore[no-untyped-def]
    return _run(objective, student, teacher, targets, weight, lam, with_gradient=True)


def _backward(_, gradient, cotangent):  # type: ignore[no-untyped-def]
    scale, _ = cotangent  # the parts are reported, not trained on
    scaled = jax.tree.map(lambda g: (g * scale).astype(g.dtype), gradient)
    return scaled, None, None, None, None


_chunked.defvjp(_forward, _backward)


def _run(objective, student, teacher, targets, weight, lam, *, with_gradient):  # type: ignore[no-untyped-def]
    """The terms over all positions and, if asked, the gradients; on a mesh, of all devices."""
    axes = _position_axes(targets.shape[0])
    expert = teacher and _whole_kernel(teacher)
    run = functools.partial(_of_own_positions, objective, axes, with_gradient=with_gradient)
    if axes:
        # The axis that splits the vocabulary stays with XLA; what it is told of is the logits.
        own, same = PartitionSpec(axes), PartitionSpec()
        states = States(own, same)  # type: ignore[arg-type]
        run = jax.shard_map(
            run,
            in_specs=(states, expert and states, own, own, own),
            out_specs=(same, states if with_gradient else None),
            axis_names=set(axes),
            check_vma=False,
        )
    terms, gradient = run(_whole_kernel(student), expert, targets, weight, lam)
    if not with_gradient:
        return terms, None
    # Split as the kernel is, at once: the sum over devices can then be scattered.
    d_kernel = constrain(gradient.kernel, ("embed", "vocab"))
    return terms, States(gradient.hidden, d_kernel.astype(student.kernel.dtype))


def _whole_kernel(states: States) -> States:
    """The kernel in the compute dtype, gathered over the axis that splits its width."""
    kernel = states.kernel.astype(states.hidden.dtype)
    return States(states.hidden, constrain(kernel, (None, "vocab")))


def _position_axes(tokens: int) -> tuple[str, ...]:
    """The mesh axes that positions are split over; none without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    (names,) = spec(("batch",))
    axes = tuple(name for name in names if mesh.shape.get(name, 1) > 1)
    devices = math.prod(mesh.shape[name] for name in axes)
    return axes if tokens % devices == 0 else ()


def chunk_size(tokens: int, width: int, vocab: int) -> int:
    """Positions projected at once.

    Few, where a chunk's logits would be large (128 MiB in float32); but no fewer than half the
    width, for each chunk costs a pass over the kernel's gradient, which is larger then.
    """
    rows = max(width // 2, 2**25 // vocab) // 128 * 128
    return min(max(rows, 128), MAX_CHUNK, tokens)


def _of_own_positions(objective, axes, student, teacher, targets, weight, lam, *, with_gradient):  # type: ignore[no-untyped-def]
    """Loops over chunks of a device's weighted positions; sums over ``axes`` at the end."""
    # `lam` is a position's own, the terms are reported over all positions.
    tokens, temperature = targets.shape[0], objective.temperature
    width, vocab = student.kernel.shape
    chunk = chunk_size(tokens, width, vocab)
    order, chunks = _in_chunks(weight != 0, chunk, axes)

    def body(i, carry):  # type: ignore[no-untyped-def]
        total, kl_sum, ce_sum, d_hidden, d_kernel = carry
        rows = lax.dynamic_slice_in_dim(order, i * chunk, chunk)
        w = weight.at[rows].get(mode="fill", fill_value=0)[:, None]
        kl_share = lam.at[rows].get(mode="fill", fill_value=0)[:, None]
        hidden, logits = _project(student, rows)
        log_p = jax.nn.log_softmax(logits)
        if teacher is not None:
            log_q = jax.nn.log_softmax(logits / temperature)
            log_t = jax.nn.log_softmax(_project(teacher, rows)[1] / temperature)
            if objective.confidence:
                kl_share *= jnp.exp(objective.confidence * log_t.max(axis=1, keepdims=True))
        # Compared rather than gathered: it stays local where the vocabulary is sharded.
        truth = targets.at[rows].get(mode="fill", fill_value=0)[:, None] == jnp.arange(vocab)
        log_truth = jnp.where(truth, log_p, 0.0).sum(axis=1, keepdims=True)
        ce_sum -= jnp.sum(w * log_truth)
        total -= jnp.sum(w * (1.0 - kl_share) * log_truth)
        d_logits = (1.0 - kl_share) * (jnp.exp(log_p) - truth)
        if objective.certainty:
            p = jnp.exp(log_p)
            sharpen = objective.certainty * (log_truth >= log_p.max(axis=1, keepdims=True))
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
        return total, kl_sum, ce_sum, d_hidden, d_kernel

    zero = jnp.zeros((), jnp.float32)
    gradient = (zero, zero)
    if with_gradient:
        d_kernel = constrain(jnp.zeros((width, vocab), jnp.float32), (None, "vocab"))
        gradient = (jnp.zeros_like(student.hidden), d_kernel)
    start = (zero, zero, zero, *gradient)
    total, kl, ce, d_hidden, d_kernel = lax.fori_loop(0, chunks, body, start)
    terms = total, (kl, ce)
    if axes:
        terms, d_kernel = lax.psum((terms, d_kernel), axes)
    return terms, States(d_hidden, d_kernel) if with_gradient else None


def _in_chunks(wanted: jax.Array, chunk: int, axes: tuple[str, ...]) -> tuple[jax.Array, jax.Array]:
    """The wanted positions first, in whole chunks, and how many chunks hold one.

    An index past the end stands for none: it reads as zero and is never written.
    """
    tokens = wanted.shape[0]
    order = jnp.argsort(~wanted, stable=True)
    order = jnp.pad(order, (0, -tokens % chunk), constant_values=tokens)
    chunks = -(-wanted.sum() // chunk)
    if axes:  # all devices loop as often, for those that share a chunk's vocabulary talk
        chunks = lax.pmax(chunks, axes)
    return order, chunks


def _project(states: States, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The states of some positions and their logits, float32."""
    hidden = states.hidden.at[rows].get(mode="fill", fill_value=0)
    logits = jnp.dot(hidden, states.kernel, preferred_element_type=jnp.float32)
    return hidden, constrain(logits, (None, "vocab"))


class Proposals(NamedTuple):
    """What a decoder would commit, and how sure it would be of it.

    Attributes:
        token: ``[tokens]`` int32, the best.
        confidence: ``[tokens]`` float32, its probability; 0 where nothing was asked.
    """

    token: jax.Array
    confidence: jax.Array


def proposals(states: States, wanted: jax.Array, mask_id: int) -> Proposals:
    """The best token of the wanted positions, never the mask; in chunks, as the loss.

    Args:
        states: of a model.
        wanted: ``[tokens]`` bool.
        mask_id: its mask token.
    """
    axes = _position_axes(wanted.shape[0])
    run = functools.partial(_own_proposals, axes, mask_id)
    if axes:
        own, same = PartitionSpec(axes), PartitionSpec()
        given: Any = (States(own, same), own)  # type: ignore[arg-type]
        run = jax.shard_map(
            run, in_specs=given, out_specs=own, axis_names=set(axes), check_vma=False
        )
    return run(_whole_kernel(states), wanted)


def _own_proposals(
    axes: tuple[str, ...], mask_id: int, states: States, wanted: jax.Array
) -> Proposals:
    """Loops over chunks of a device's wanted positions."""
    width, vocab = states.kernel.shape
    chunk = chunk_size(wanted.shape[0], width, vocab)
    order, chunks = _in_chunks(wanted, chunk, axes)
    ids = jnp.arange(vocab, dtype=jnp.int32)

    def body(i: jax.Array, found: Proposals) -> Proposals:
        rows = lax.dynamic_slice_in_dim(order, i * chunk, chunk)
        logits = jnp.where(ids == mask_id, -jnp.inf, _project(states, rows)[1])
        most = logits.max(axis=1, keepdims=True)
        # Compared, as the loss does: an argmax would gather a vocabulary that is sharded.
        best = Proposals(
            token=jnp.where(logits == most, ids, vocab).min(axis=1),
            confidence=jnp.exp(most[:, 0] - jax.nn.logsumexp(logits, axis=1)),
        )
        return jax.tree.map(
            lambda all_rows, these: all_rows.at[rows].set(these, mode="drop", unique_indices=True),
            found,
            best,
        )

    nothing = Proposals(jnp.zeros(wanted.shape, jnp.int32), jnp.zeros(wanted.shape, jnp.float32))
    found = lax.fori_loop(0, chunks, body, nothing)
    # The last chunk has rows that nobody asked for.
    return jax.tree.map(lambda array: jnp.where(wanted, array, 0), found)
