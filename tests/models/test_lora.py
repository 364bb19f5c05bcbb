from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.models import lora
from cd4lm_jax.models.lora import Adapter, Adapters, LoraConfig
from cd4lm_jax.models.transformer import Execution, Transformer
from tests.tiny import TINY, forward, parameters, tiny_model

CONFIG = LoraConfig(rank=3, alpha=6.0)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 37, (2, 9)))
VALID = jnp.ones(TOKENS.shape, bool)


def adapters(base: Transformer, config: LoraConfig = CONFIG) -> Adapters:
    """Adapters that do something: both factors drawn."""
    rng = np.random.default_rng(1)
    fresh = lora.create(config, base, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.1 * rng.standard_normal(leaf.shape, np.float32)), fresh
    )


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", [True, False])
def test_adapters_compute_what_the_merged_model_does(scan_layers: bool) -> None:
    base = tiny_model(TINY, Execution(scan_layers=scan_layers))
    before, factors = parameters(base), adapters(base)
    assert set(factors) == set(lora.TARGETS)
    on = forward(lora.attach(CONFIG, base, factors), TOKENS, VALID)
    merged = lora.merge(CONFIG, base, factors)
    np.testing.assert_allclose(on, forward(merged, TOKENS, VALID), rtol=1e-4, atol=1e-5)
    off = forward(base, TOKENS, VALID)
    assert np.abs(on - off).max() > 0.1
    for name, leaf in parameters(merged).items():
        group, _, kernel = name.rpartition(".")
        changed = group == "blocks" and kernel in lora.TARGETS
        assert np.array_equal(leaf, before[name]) != changed


def test_fresh_adapters_have_no_effect() -> None:
    base = tiny_model()
    fresh = lora.create(CONFIG, base, jax.random.key(0))
    assert fresh["down"].lora_a.shape == (2, 48, 3)
    assert fresh["down"].lora_b.shape == (2, 3, 32)
    on = forward(lora.attach(CONFIG, base, fresh), TOKENS, VALID)
    np.testing.assert_array_equal(on, forward(base, TOKENS, VALID))


@pytest.mark.slow
def test_gradients_are_those_of_the_dense_formula() -> None:
    base = tiny_model()
    factors = adapters(base)

    def loss(model: Transformer) -> Any:
        return jnp.square(model(TOKENS, VALID)).mean()

    ours = jax.jit(jax.grad(lambda f: loss(lora.attach(CONFIG, base, f))))(factors)
    # d(W + s A B): dA = s dW B^T, dB = s A^T dW.
    merged = lora.merge(CONFIG, base, factors)
    dense = parameters(jax.jit(jax.grad(loss))(merged))
    for name, (a, b) in factors.items():
        kernel = CONFIG.scale * jnp.asarray(dense[f"blocks.{name}"])
        expected = Adapter(kernel @ b.swapaxes(1, 2), a.swapaxes(1, 2) @ kernel)
        for one, other in zip(ours[name], expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6, err_msg=name)


def test_only_the_kernels_named_are_adapted() -> None:
    config = dataclasses.replace(CONFIG, targets=("value", "down"))
    base = tiny_model()
    assert list(lora.create(config, base, jax.random.key(0))) == ["value", "down"]


@pytest.mark.slow
def test_a_bfloat16_base_keeps_small_changes() -> None:
    base = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tiny_model())
    small = jax.tree.map(lambda leaf: 0.05 * leaf, adapters(base))
    merged = lora.merge(CONFIG, base, small)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype("float32")}
    on = forward(lora.attach(CONFIG, base, small), TOKENS, VALID)
    np.testing.assert_allclose(on, forward(merged, TOKENS, VALID), rtol=1e-3, atol=1e-4)
    assert np.abs(on - forward(base, TOKENS, VALID)).max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ("query", "values")}, "no linear layer 'values' in a block; did you mean 'va"),
        ({"targets": ("norm",)}, "no linear layer 'norm' in a block; known: query, key, value"),
        ({"targets": ()}, r"lora\.targets is empty; name some of query"),
        ({"rank": 0}, "give a rank of 1 or more"),
        ({"alpha": 0.0}, "an alpha above 0"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoraConfig(**changes)


def test_factors_are_split_as_their_kernels_are() -> None:
    assert lora.logical_axes("model.up.lora_a") == ("layers", "embed", None)
    assert lora.logical_axes("optimizer.1.0.mu.up.lora_b") == ("layers", None, "mlp")
    assert lora.logical_axes("optimizer.1.0.mu.blocks.up") == ("layers", "embed", "mlp")
