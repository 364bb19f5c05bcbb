from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.decoding import batching, sampling
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.decoding.trajectory import Trajectory
from tests.tiny import TINY_TALKER, forward, tiny_model

pytestmark = pytest.mark.slow

rng = np.random.default_rng(0)

MODEL = tiny_model(TINY_TALKER, seed=3)
OPTIONS = DecodeConfig(
    rule=ConfidenceAdaptive(threshold=0.9),
    gen_length=4,
    block_length=2,
    eos_token_ids=(),
    stop_at_eos=False,
)
PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 0, 1], [2, 2], [3, 1]]


def sample(prompts: list[list[int]] = PROMPTS, **changes: Any) -> Trajectory:
    options = {"temperature": 1.0, "batch_size": 2} | changes
    return batching.decode(MODEL, prompts, dataclasses.replace(OPTIONS, **options)).trajectory


def test_draws_follow_seed_and_prompt_number_and_nothing_else() -> None:
    first = sample()
    np.testing.assert_array_equal(sample().tokens, first.tokens)
    np.testing.assert_array_equal(sample(batch_size=5).tokens, first.tokens)
    assert (sample(seed=1).tokens != first.tokens).any()
    same = sample([PROMPTS[0]] * 5).tokens
    assert len(np.unique(same, axis=0)) > 1


def test_without_noise_it_is_the_arg_max() -> None:
    np.testing.assert_array_equal(sample(temperature=1e-9).tokens, sample(temperature=0.0).tokens)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_tokens_come_as_often_as_the_softmax_says(temperature: float) -> None:
    """With one position to fill, its distribution is the model's own without the mask token."""
    draws = 2048
    found = sample(
        [PROMPTS[0]] * draws,
        temperature=temperature,
        batch_size=draws,
        gen_length=1,
        block_length=1,
    )
    canvas = jnp.asarray([[*PROMPTS[0], TINY_TALKER.mask_id]])
    logits = forward(MODEL, canvas, jnp.ones_like(canvas, bool))[0, -1]
    logits = logits.at[TINY_TALKER.mask_id].set(-jnp.inf)
    expected = np.asarray(jax.nn.softmax(logits / temperature))
    share = np.bincount(found.tokens[:, 0], minlength=len(expected)) / draws
    assert np.abs(share - expected).max() < 4 * np.sqrt(0.25 / draws)
    assert share[TINY_TALKER.mask_id] == 0
    # Confidence is the drawn token's probability, whatever the temperature.
    plain = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(found.confidence[:, 0], plain[found.tokens[:, 0]], rtol=1e-4)


def test_truncation_keeps_what_sorting_would() -> None:
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 50)) * 3, jnp.float32)
    shares = np.asarray(jax.nn.softmax(logits / 0.7), np.float64)
    falling = -np.sort(-shares, axis=-1)
    for top_k, top_p in [(1, 1.0), (7, 1.0), (0, 0.5), (0, 0.95), (3, 0.9), (50, 1.0), (0, 1.0)]:
        found = np.asarray(sampling.truncate(logits, 0.7, top_k, top_p))
        kept = np.isfinite(found)
        np.testing.assert_array_equal(found[kept], np.asarray(logits)[kept])
        by_share = (np.cumsum(falling, axis=-1) < top_p).sum(axis=-1) + 1 if top_p < 1 else 50
        expected = np.minimum(by_share, top_k or 50)
        np.testing.assert_array_equal(kept.sum(axis=-1), np.broadcast_to(expected, (3, 4)))
        least = np.where(kept, shares, np.inf).min(axis=-1)
        assert (np.where(kept, 0, shares).max(axis=-1) <= least).all()


def test_draws_stay_within_top_k_and_top_p() -> None:
    draws, one = 512, {"gen_length": 1, "block_length": 1}
    prompts = [PROMPTS[0]] * draws
    free = sample(prompts, batch_size=draws, temperature=2.0, **one).tokens
    best = sample(prompts[:1], temperature=0.0, **one).tokens[0, 0]
    assert (sample(prompts, batch_size=draws, temperature=2.0, top_k=1, **one).tokens == best).all()
    few = sample(prompts, batch_size=draws, temperature=2.0, top_k=3, **one).tokens
    assert len(np.unique(few)) == 3 < len(np.unique(free))
    nucleus = sample(prompts, batch_size=draws, temperature=2.0, top_p=0.6, **one).tokens
    assert 1 < len(np.unique(nucleus)) < len(np.unique(free))


def test_what_is_suppressed_is_never_generated() -> None:
    free = sample(temperature=0.0)
    never = int(free.tokens[0, 0])
    found = sample(temperature=0.0, suppress=(never,))
    assert never not in found.tokens
    assert (found.confidence > 0).all()


def test_the_best_token_is_that_of_argmax_also_where_logits_are_broken() -> None:
    logits = rng.integers(-2, 3, (6, 5, 7)).astype(np.float32)  # full of ties
    logits[0, :, 2:4] = np.nan
    logits[1] = -np.inf
    logits[2, :, 5] = np.inf
    logits[3] = np.nan
    token = sampling.propose(jnp.asarray(logits), jnp.asarray(logits)).token
    np.testing.assert_array_equal(token, logits.argmax(axis=-1))
