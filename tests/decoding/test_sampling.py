from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.decoding import batch
from cd4lm_jax.decoding.commit import ConfidenceAdaptive
from cd4lm_jax.decoding.decoder import Limits, Shape
from cd4lm_jax.decoding.trajectory import Trajectory
from tests.models import TINY_TALKER, forward, tiny_model

MODEL = tiny_model(TINY_TALKER, seed=3)
SHAPE = Shape(gen_length=4, block_length=2, eos_token_ids=(), stop_at_eos=False, sampled=True)
RULE = ConfidenceAdaptive(threshold=0.9)
PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 0, 1], [2, 2], [3, 1]]


def sample(
    prompts: list[list[int]] = PROMPTS,
    *,
    temperature: float = 1.0,
    seed: int = 0,
    rows: int = 2,
    shape: Shape = SHAPE,
) -> Trajectory:
    limits = Limits(temperature=temperature)
    return batch.decode(
        MODEL, prompts, RULE, shape=shape, limits=limits, batch_size=rows, seed=seed
    ).trajectory


def test_draws_follow_seed_and_prompt_number_and_nothing_else() -> None:
    first = sample()
    np.testing.assert_array_equal(sample().tokens, first.tokens)
    np.testing.assert_array_equal(sample(rows=5).tokens, first.tokens)
    assert (sample(seed=1).tokens != first.tokens).any()
    same = sample([PROMPTS[0]] * 5).tokens
    assert len(np.unique(same, axis=0)) > 1


def test_without_noise_it_is_the_arg_max() -> None:
    plain = sample(shape=dataclasses.replace(SHAPE, sampled=False))
    np.testing.assert_array_equal(sample(temperature=0.0).tokens, plain.tokens)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_tokens_come_as_often_as_the_softmax_says(temperature: float) -> None:
    """With one position to fill, its distribution is the model's own without the mask token."""
    draws = 2048
    shape = dataclasses.replace(SHAPE, gen_length=1, block_length=1)
    found = sample([PROMPTS[0]] * draws, temperature=temperature, rows=draws, shape=shape)
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
