"""The losses of a validation split, under views and a lambda that never change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
        Scalars `loss` and `ce`, and `kl` where a teacher is compared with; `examples`, the number
        of rows with an answer.
    """
    student = learner.student(trained, base)
    models = Models(student, teacher, parts=learner.accumulate)
    views = learner.corruption.validation_views(learner.step_key(_STEP), batch, models)
    lam = jnp.float32(learner.curriculum.final)
    terms = learner.loss(student, teacher, batch, views, lam)
    metrics = {"loss": terms.total, "ce": terms.ce}
    if teacher is not None and views.teacher is not None:
        metrics["kl"] = terms.kl
    return metrics


def losses(
    evaluated: Callable[[Batch], Metrics], batches: Sequence[tuple[Batch, int]]
) -> dict[str, float]:
    """The losses of a whole split.

    Args:
        evaluated: `evaluate` of a batch.
        batches: the split, with the number of examples of each batch.
    """
    totals: dict[str, float] = {}
    for batch, count in batches:
        for name, value in evaluated(batch).items():
            totals[name] = totals.get(name, 0.0) + count * float(value)
    examples = sum(count for _, count in batches)
    return {name: total / examples for name, total in totals.items()}
