"""The losses of a validation split, under views and a lambda that never change."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax.numpy as jnp

from cd4lm_jax.corruption.views import Batch, Models
from cd4lm_jax.distillation.learner import Learner, Metrics
from cd4lm_jax.distillation.state import Trained
from cd4lm_jax.models.transformer import Transformer

_STEP = 2**32 - 1
"""Stands for the step in the keys of validation views; no run is that long."""


def evaluate(
    learner: Learner,
    trained: Trained,
    teacher: Transformer | None,
    batch: Batch,
    base: Transformer | None = None,
) -> Metrics:
    """Loss terms of one validation batch.

    Args:
        learner: how the model learns, whose validation views and final lambda are used.
        trained: the model or its adapters.
        teacher: as in an update; not used where the validation views have none for it.
        batch: rows; those without an answer count for nothing.
        base: what adapters are of, with LoRA.

    Returns:
        Scalars `loss` and `ce`, and `kl` where a teacher is compared with; and `divisor`, what the
        weights of the batch were divided by.
    """
    student = learner.student(trained, base)
    models = Models(student, teacher, parts=learner.accumulate)
    views = learner.corruption.validation_views(learner.step_key(_STEP), batch, models)
    lam = jnp.float32(learner.curriculum.final)
    terms = learner.loss(student, teacher, batch, views, lam)
    metrics = {"loss": terms.total, "ce": terms.ce, "divisor": views.divisor.sum()}
    if teacher is not None and views.teacher is not None:
        metrics["kl"] = terms.kl
    return metrics


def losses(evaluated: Callable[[Batch], Metrics], batches: Iterable[Batch]) -> dict[str, float]:
    """The losses of a whole split: those of one batch of all its rows, up to rounding.

    Args:
        evaluated: `evaluate` of a batch.
        batches: the split.

    Returns:
        Means over what the loss is a mean of: masked positions, or rows.
    """
    totals: dict[str, float] = {}
    divisor = 0.0
    for batch in batches:
        found = {name: float(value) for name, value in evaluated(batch).items()}
        share = found.pop("divisor")
        divisor += share
        for name, value in found.items():
            totals[name] = totals.get(name, 0.0) + share * value
    return {name: total / max(divisor, 1.0) for name, total in totals.items()}
