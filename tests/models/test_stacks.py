"""Models whose layers are apart: what they compute, what memory they take, who they are."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.experts import ExpertsConfig
from cd4lm_jax.models.fingerprint import fingerprint
from cd4lm_jax.models.quantization import quantize
from cd4lm_jax.models.transformer import Execution
from cd4lm_jax.runtime import checksums
from cd4lm_jax.runtime.trees import named_leaves
from tests.tiny import TINY, forward, tiny_model

UNROLLED = Execution(scan_layers=False)
SPARSE = dataclasses.replace(
    TINY,
    num_layers=3,
    experts=ExpertsConfig(count=4, per_token=2, width=12, dense_layers=1),
)


@pytest.mark.parametrize("config", [TINY, SPARSE], ids=["dense", "experts"])
def test_it_is_the_same_model(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(config, UNROLLED)
    tokens = jnp.arange(12)[None] % config.vocab_size
    valid = jnp.ones(tokens.shape, bool)
    apart = model.by_layer()
    expected = forward(model, tokens, valid)
    np.testing.assert_allclose(forward(apart, tokens, valid), expected, atol=2e-5)
    assert fingerprint(apart) == fingerprint(model)
    monkeypatch.setattr(checksums, "_CHUNK_BYTES", 1000)
    assert fingerprint(apart) == fingerprint(model)
    assert apart.by_layer() is apart
    again, expected = named_leaves(apart.in_stacks()), named_leaves(model)
    assert again.keys() == expected.keys()
    assert all(np.array_equal(again[name], leaf) for name, leaf in expected.items())


def test_a_consumed_stack_is_deleted_and_what_is_no_stack_stays() -> None:
    model = quantize(tiny_model(execution=UNROLLED), "int8")
    expected = fingerprint(model)
    stacks = jax.tree.leaves(model.blocks)
    apart = model.by_layer(consume=True)
    assert all(leaf.is_deleted() for leaf in stacks)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(apart))
    assert fingerprint(apart) == expected


def test_a_model_that_scans_is_left_as_it_is() -> None:
    model = tiny_model()
    assert model.by_layer(consume=True) is model
