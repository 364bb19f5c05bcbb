"""The train state: all that training changes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cd4lm_jax.models import lora
from cd4lm_jax.models.transformer import Transformer

Trained = Transformer | lora.Adapters
"""What is trained: all parameters of a model, or adapters of a frozen base."""


class TrainState(NamedTuple):
    """What training changes.

    Attributes:
        step: int32, updates tried (one a batch), counted from 0.
        bad_steps: int32, updates skipped in a row because loss or gradient was not finite.
        model: what is trained, in float32.
        optimizer: optax state.
        average: moving average of `model`, where that is the teacher.
    """

    step: jax.Array
    bad_steps: jax.Array
    model: Trained
    optimizer: Any
    average: Trained | None = None

    @classmethod
    def create(
        cls, model: Trained, optimizer: optax.GradientTransformation, *, averaged: bool = False
    ) -> TrainState:
        """A state before its first update."""
        # Two arrays, not one twice: a buffer can be donated only once.
        step, bad_steps = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        average = jax.tree.map(jnp.copy, model) if averaged else None
        return cls(step, bad_steps, model, optimizer.init(model), average)
