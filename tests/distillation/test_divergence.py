from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.distillation.divergence import (
    Divergence,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    TotalVariation,
)

ROWS, VOCAB = 20, 7


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(axis=1)


def formula(divergence: Divergence, t: np.ndarray, q: np.ndarray) -> np.ndarray:
    """As in a textbook, in float64."""
    if isinstance(divergence, ForwardKL):
        return kl(t, q)
    if isinstance(divergence, ReverseKL):
        return kl(q, t)
    if isinstance(divergence, JensenShannon):
        return (kl(t, (t + q) / 2) + kl(q, (t + q) / 2)) / 2
    return np.abs(t - q).sum(axis=1) / 2


def scores(seed: int, sharpness: float = 2.0) -> np.ndarray:
    return sharpness * np.random.default_rng(seed).standard_normal((ROWS, VOCAB))


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def measure(divergence: Divergence, teacher: np.ndarray, student: np.ndarray) -> list[np.ndarray]:
    logs = (jax.nn.log_softmax(jnp.asarray(x, jnp.float32)) for x in (teacher, student))
    return [np.asarray(part) for part in divergence(*logs)]


ALL: list[Divergence] = [ForwardKL(), ReverseKL(), JensenShannon(), TotalVariation()]


@pytest.mark.parametrize("divergence", ALL, ids=lambda d: type(d).__name__)
def test_value_and_gradient_are_those_of_the_formula(divergence: Divergence) -> None:
    teacher, student = scores(0), scores(1)
    value, slope = measure(divergence, teacher, student)
    t, step = softmax(teacher), 1e-6
    np.testing.assert_allclose(value[:, 0], formula(divergence, t, softmax(student)), rtol=1e-5)
    for token in range(VOCAB):
        moved = np.eye(VOCAB)[token] * step
        up, down = (formula(divergence, t, softmax(student + s * moved)) for s in (1, -1))
        np.testing.assert_allclose(slope[:, token], (up - down) / (2 * step), atol=1e-5)


@pytest.mark.parametrize("divergence", ALL, ids=lambda d: type(d).__name__)
def test_nothing_is_asked_of_a_student_that_equals_its_teacher(divergence: Divergence) -> None:
    value, slope = measure(divergence, scores(0), scores(0) + 3.0)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    if divergence != TotalVariation():  # has a kink there
        np.testing.assert_allclose(slope, 0, atol=1e-6)


@pytest.mark.parametrize(
    ("divergence", "most"), [(JensenShannon(), math.log(2)), (TotalVariation(), 1.0)]
)
def test_jensen_shannon_and_total_variation_are_symmetric_and_bounded(
    divergence: Divergence, most: float
) -> None:
    # Both confident of unlike tokens: log-probabilities down to about -300.
    one, other = (scores(seed, sharpness=100.0) for seed in (0, 1))
    value, slope = measure(divergence, one, other)
    np.testing.assert_allclose(value, measure(divergence, other, one)[0], atol=1e-6)
    assert most * 0.99 < value.max() <= most + 1e-6
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() <= 1
    # Where KL grows without bound.
    assert measure(ForwardKL(), one, other)[0].max() > 100


def test_reverse_kl_settles_on_what_most_teachers_say() -> None:
    """A student that cannot distinguish three teachers: two predict A, one B, each with 99.8 %."""
    teachers = np.log(
        np.array([[0.998, 0.001, 0.001], [0.998, 0.001, 0.001], [0.001, 0.998, 0.001]])
    )

    def best(divergence: Divergence) -> np.ndarray:
        student = np.zeros((1, 3))
        for _ in range(4000):
            student -= 0.2 * measure(divergence, teachers, np.repeat(student, 3, axis=0))[1].mean(0)
        return softmax(student)[0]

    # The mean of the distributions, and the normalised mean of their logarithms.
    np.testing.assert_allclose(best(ForwardKL()), np.exp(teachers).mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(best(ReverseKL()), softmax(teachers.mean(0)[None])[0], atol=1e-3)
    assert best(ReverseKL())[0] > 0.9 > 0.7 > best(ForwardKL())[0]
