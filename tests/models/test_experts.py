"""Layers with experts, against one token and one expert at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.checkpoints.model_folder import abstract_model
from cd4lm_jax.models.experts import ExpertsConfig, mixture, route
from cd4lm_jax.models.transformer import Execution, Transformer
from cd4lm_jax.models.window import Window
from tests.tiny import TINY, forward, tiny_model

rng = np.random.default_rng(0)
CONFIGS = {
    "LLaDA2": ExpertsConfig(
        count=12, per_token=3, width=10, biased=True, groups=4, groups_per_token=2, scale=2.5
    ),
    "LLaDA-MoE": ExpertsConfig(count=6, per_token=2, width=7, score="softmax", normalised=False),
    "one of three": ExpertsConfig(count=3, per_token=1, width=4),
    "all of five": ExpertsConfig(count=5, per_token=5, width=4),
}


def reference(
    config: ExpertsConfig, x: np.ndarray, weights: dict[str, np.ndarray], bias: np.ndarray
) -> np.ndarray:
    """One token `[embed]`."""
    logits = x @ weights["router"]
    if config.score == "sigmoid":
        scores = 1 / (1 + np.exp(-logits))
    else:
        scores = np.exp(logits) / np.exp(logits).sum()
    ranked = scores + (bias if config.biased else 0)
    if config.groups > 1:
        size = config.count // config.groups
        best = [sum(sorted(ranked[g * size : (g + 1) * size])[-2:]) for g in range(config.groups)]
        for g in np.argsort(best)[: config.groups - config.groups_per_token]:
            ranked[g * size : (g + 1) * size] = -np.inf
    chosen = np.argsort(-ranked)[: config.per_token]
    share = scores[chosen]
    if config.normalised and config.per_token > 1:
        share = share / share.sum()
    total = np.zeros_like(x)
    for expert, weight in zip(chosen, config.scale * share, strict=True):
        gate = x @ weights["gate"][expert]
        hidden = gate / (1 + np.exp(-gate)) * (x @ weights["up"][expert])
        total += weight * (hidden @ weights["down"][expert])
    return total


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_token_goes_through_its_experts(config: ExpertsConfig) -> None:
    width = 16
    shapes = {
        "router": (width, config.count),
        "gate": (config.count, width, config.width),
        "up": (config.count, width, config.width),
        "down": (config.count, config.width, width),
    }
    weights = {name: rng.standard_normal(shape) / 4 for name, shape in shapes.items()}
    bias, x = 0.3 * rng.standard_normal(config.count), rng.standard_normal((9, width))

    def layer(x: jax.Array) -> jax.Array:
        kernels = {name: jnp.asarray(array, jnp.float32) for name, array in weights.items()}
        given = jnp.asarray(bias, jnp.float32) if config.biased else None
        choice = route(config, x, kernels.pop("router"), given)
        return mixture(x, choice, **kernels)

    expected = [reference(config, row.copy(), weights, bias) for row in x]
    found = jax.jit(layer)(x.astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # A token's output does not depend on the others.
    np.testing.assert_array_equal(jax.jit(layer)(x[3:5].astype(np.float32)), found[3:5])


SPARSE = dataclasses.replace(
    TINY,
    num_layers=4,
    experts=ExpertsConfig(count=4, per_token=2, width=12, shared=1, dense_layers=2, biased=True),
)


@pytest.mark.parametrize(
    "changes", [{}, {"dense_layers": 0}, {"dense_layers": 3, "shared": 0, "biased": False}]
)
def test_counts_the_parameters_that_there_are(changes: dict[str, Any]) -> None:
    assert SPARSE.experts is not None
    config = dataclasses.replace(SPARSE, experts=dataclasses.replace(SPARSE.experts, **changes))
    assert config.num_parameters == sum(
        leaf.size for leaf in jax.tree.leaves(abstract_model(config))
    )


@pytest.mark.slow
def test_unlike_layers_run_scanned_unrolled_split_and_from_a_cache() -> None:
    tokens = jnp.asarray(rng.integers(0, TINY.vocab_size, (2, 16)), jnp.int32)
    valid = jnp.ones(tokens.shape, bool)
    scanned = tiny_model(SPARSE)
    unrolled = tiny_model(SPARSE, Execution(scan_layers=False))
    expected = forward(scanned, tokens, valid)
    for model in (unrolled, unrolled.by_layer()):
        np.testing.assert_allclose(forward(model, tokens, valid), expected, atol=2e-5)

    @jax.jit
    def cached(model: Transformer) -> tuple[jax.Array, jax.Array]:
        part = Window(start=jnp.array([4, 8], jnp.int32), length=4)
        hidden, cache = model.prefill(tokens, valid, part)
        again = model.cached_forward(tokens, valid, part, cache)
        return model.logits(hidden), model.logits(again)

    for model in (scanned, unrolled.by_layer()):
        for found in cached(model):
            np.testing.assert_allclose(found[0], expected[0, 4:8], atol=2e-5)
            np.testing.assert_allclose(found[1], expected[1, 8:12], atol=2e-5)
