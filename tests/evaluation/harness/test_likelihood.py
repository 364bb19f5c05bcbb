from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.evaluation.harness import likelihood
from cd4lm_jax.evaluation.harness.likelihood import MonteCarlo
from tests.tiny import TINY, forward, tiny_model

MODEL = tiny_model(sharpness=3.0)
CONTEXT, CONTINUATION = [1, 2, 3, 4, 5], [6, 7, 8]


def _log_probabilities(masked: np.ndarray) -> np.ndarray:
    """Of the continuation's tokens, by the model alone, without padding or windows."""
    text = np.array([*CONTEXT, *CONTINUATION])
    tokens = text.copy()
    tokens[len(CONTEXT) :][masked] = TINY.mask_id
    logits = np.asarray(forward(MODEL, jnp.asarray(tokens[None]), jnp.ones((1, 8), bool)))[0]
    logits = logits.astype(np.float64)
    log = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return log[np.arange(len(CONTEXT), 8), CONTINUATION]


def test_counts_are_uniform_and_spread() -> None:
    rng = np.random.default_rng(0)
    masked = likelihood.maskings(8, 800, rng)
    counts = masked.sum(axis=1)
    # Systematic: each count comes once in so many samples, or once more or less.
    assert np.bincount(counts, minlength=9)[1:] == pytest.approx([100] * 8, abs=1)
    # No place is preferred: about 4.5 of 8 of them are masked.
    assert masked.mean(axis=0) == pytest.approx(np.full(8, 4.5 / 8), abs=0.07)
    assert likelihood.maskings(1, 3, rng).all()


def test_one_token_takes_no_chance() -> None:
    found = [
        likelihood.log_likelihood(MODEL, CONTEXT, [6], MonteCarlo(samples=samples, seed=seed))
        for samples, seed in ((1, 0), (1, 1), (5, 2))
    ]
    tokens = jnp.asarray([[*CONTEXT, TINY.mask_id]])
    logits = np.asarray(forward(MODEL, tokens, jnp.ones((1, 6), bool)))[0, -1].astype(np.float64)
    expected = logits[6] - np.log(np.exp(logits).sum())
    assert found == pytest.approx([expected] * 3, abs=1e-4)


def test_the_estimate_is_the_mean_over_all_maskings() -> None:
    expected = 0.0
    for count in (1, 2, 3):
        patterns = [np.isin(range(3), some) for some in itertools.combinations(range(3), count)]
        terms = [3 / count * _log_probabilities(mask)[mask].sum() for mask in patterns]
        expected += float(np.mean(terms)) / 3
    found = likelihood.log_likelihood(
        MODEL, CONTEXT, CONTINUATION, MonteCarlo(samples=3000, batch_size=500)
    )
    assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_neither_batches_nor_company_change_an_estimate() -> None:
    small, large = (MonteCarlo(samples=10, batch_size=size) for size in (3, 16))
    first = likelihood.log_likelihood(MODEL, CONTEXT, CONTINUATION, small)
    assert first == pytest.approx(
        likelihood.log_likelihood(MODEL, CONTEXT, CONTINUATION, large), rel=1e-5
    )
    other = likelihood.log_likelihood(MODEL, CONTEXT, CONTINUATION, MonteCarlo(samples=10, seed=1))
    assert first != pytest.approx(other, rel=1e-5)


def test_greedy_is_what_one_token_a_pass_writes() -> None:
    tokens = np.array([*CONTEXT, *[TINY.mask_id] * 4])
    for _ in range(4):
        logits = np.array(forward(MODEL, jnp.asarray(tokens[None]), jnp.ones((1, 9), bool)))[0]
        logits[:, TINY.mask_id] = -np.inf
        shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        sure = np.where(tokens == TINY.mask_id, shares.max(axis=-1), -1.0)
        place = int(sure.argmax())
        tokens[place] = logits[place].argmax()
    written = tokens[5:].tolist()
    assert likelihood.is_greedy(MODEL, CONTEXT, written)
    for place in range(4):
        other = [*written]
        other[place] = (other[place] + 1) % TINY.mask_id
        assert not likelihood.is_greedy(MODEL, CONTEXT, other)


@pytest.mark.parametrize(("context", "continuation"), [([1], []), ([1] * 40, [2] * 25)])
def test_what_does_not_fit_is_an_error(context: list[int], continuation: list[int]) -> None:
    with pytest.raises(ValueError, match="at most the model's 64 together"):
        likelihood.log_likelihood(MODEL, context, continuation, MonteCarlo())
    with pytest.raises(ValueError, match="samples=0; give 1 or more"):
        MonteCarlo(samples=0)
