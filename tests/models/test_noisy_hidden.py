"""All noisy blocks of a text in one pass, beside what decoding computes for one of them."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from cd4lm_jax.models.config import Alignment
from cd4lm_jax.models.transformer import Execution, Transformer
from tests.tiny import TINY, tiny_model

BLOCK, LENGTH = 4, 14
noisy_hidden = jax.jit(Transformer.noisy_hidden)
hidden = jax.jit(Transformer.hidden)


@pytest.mark.parametrize("alignment", ["same", "shifted"])
@pytest.mark.parametrize(("left", "right"), [(0, 0), (3, 2)])
def test_every_block_is_what_a_decoder_computes_for_it(
    alignment: Alignment, left: int, right: int
) -> None:
    config = dataclasses.replace(
        TINY, attention="block", block_length=BLOCK, blocks="sequence", alignment=alignment
    )
    model = tiny_model(config)
    rng = np.random.default_rng(0)
    shape = (3, left + LENGTH + right)
    noisy, clean = rng.integers(0, 40, (2, *shape), np.int32)
    place = np.arange(shape[1]) - left
    valid = np.broadcast_to((place >= 0) & (place < LENGTH), shape)
    found = noisy_hidden(model, noisy, clean, valid)
    for block in range(-(-LENGTH // BLOCK)):
        own = (place // BLOCK == block) & valid[0]
        # What follows is not attended, so it may be anything.
        canvas = np.where(place // BLOCK < block, clean, noisy)
        expected = hidden(model, canvas, valid)
        begin = int(block == 0 and alignment == "shifted")  # no state is before position 0
        places = np.flatnonzero(own)[begin:]
        np.testing.assert_allclose(found[:, places], expected[:, places], atol=2e-5)


def test_blocks_of_one_position_are_the_causal_model_whatever_is_masked() -> None:
    config = dataclasses.replace(
        TINY, attention="block", block_length=1, blocks="sequence", alignment="shifted"
    )
    causal = dataclasses.replace(config, attention="causal", block_length=0)
    rng = np.random.default_rng(0)
    noisy, clean = rng.integers(0, 40, (2, 2, LENGTH), np.int32)
    valid = np.ones(noisy.shape, bool)
    found = noisy_hidden(tiny_model(config), noisy, clean, valid)
    expected = hidden(tiny_model(causal), clean, valid)
    np.testing.assert_allclose(found[:, 1:], expected[:, 1:], atol=2e-5)


def test_scanned_layers_and_recomputed_ones_are_the_same() -> None:
    config = dataclasses.replace(TINY, attention="block", block_length=BLOCK, blocks="sequence")
    rng = np.random.default_rng(0)
    noisy, clean = rng.integers(0, 40, (2, 2, LENGTH), np.int32)
    valid = np.ones(noisy.shape, bool)
    expected = noisy_hidden(tiny_model(config), noisy, clean, valid)
    for execution in (Execution(scan_layers=False), Execution(remat="full")):
        found = noisy_hidden(tiny_model(config, execution), noisy, clean, valid)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_blocks_of_a_generation_are_not_known() -> None:
    model = tiny_model(dataclasses.replace(TINY, attention="block", block_length=BLOCK))
    tokens = np.zeros((1, 8), np.int32)
    with pytest.raises(ValueError, match="count from the start of the generation"):
        model.noisy_hidden(tokens, tokens, np.ones((1, 8), bool))  # type: ignore[arg-type]
