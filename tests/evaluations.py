"""Evaluations of a training run whose losses a test chooses."""

from __future__ import annotations

import numpy as np
import pytest

from cd4lm_jax.distillation.evaluator import Evaluator, Judged
from cd4lm_jax.models.transformer import Transformer
from tests.tiny import parameters


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> list[dict[str, np.ndarray]]:
    """Evaluations that give these losses; returns the parameters of each."""
    evaluated: list[dict[str, np.ndarray]] = []

    def evaluate(evaluator: Evaluator, model: Transformer) -> Judged:
        evaluated.append({name: leaf.copy() for name, leaf in parameters(model).items()})
        loss = losses[len(evaluated) - 1]
        return Judged({"loss": loss}, -loss)

    monkeypatch.setattr(Evaluator, "__call__", evaluate)
    return evaluated
