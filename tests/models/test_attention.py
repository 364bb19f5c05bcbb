from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.models.attention import KeyValues, RoundedHeads, attention, rounded

rng = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return rng.standard_normal(shape, np.float32)


def plain_attention(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array) -> jax.Array:
    """Softmax attention as one writes it down, key/value heads repeated."""
    group = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, group, axis=2), jnp.repeat(v, group, axis=2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(q.shape[-1])
    weights = jax.nn.softmax(jnp.where(valid[:, None, None], scores, -1e30), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*q.shape[:2], -1)


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_attention_and_its_written_out_gradient(kv_heads: int) -> None:
    q, k, v = normal(2, 5, 4, 8), normal(2, 7, kv_heads, 8), normal(2, 7, kv_heads, 8)
    valid = np.array([[True] * 7, [False, False, True, True, True, True, False]])
    cotangent = normal(2, 5, 32)

    @jax.jit
    def both(q, k, v):  # type: ignore[no-untyped-def]
        outputs = []
        for compute in (attention, plain_attention):
            value, backward = jax.vjp(lambda *qkv, f=compute: f(*qkv, valid), q, k, v)
            outputs.append((value, *backward(cotangent)))
        return outputs

    for ours, plain in zip(*both(q, k, v), strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-5)


def test_a_rounded_cache_is_read_as_what_it_stands_for() -> None:
    q, k, v = normal(2, 5, 4, 8), normal(2, 3, 2, 8), normal(2, 3, 2, 8)
    kept = KeyValues(normal(2, 2, 7, 8), normal(2, 2, 7, 8))
    valid = jnp.asarray(rng.random((2, 10)) < 0.8)

    @jax.jit
    def all_three(kept: KeyValues) -> list[jax.Array]:
        stored = rounded(kept)
        stands_for = jax.tree.map(
            lambda heads: heads.numbers * heads.scales,
            stored,
            is_leaf=lambda node: isinstance(node, RoundedHeads),
        )
        return [attention(q, k, v, valid, cache) for cache in (stored, stands_for, kept)]

    found, want, exact = all_three(kept)
    np.testing.assert_allclose(found, want, atol=1e-6)
    assert 1e-4 < np.abs(found - exact).max() < 0.02


def test_a_row_without_a_valid_key_stays_finite() -> None:
    q, k, v = normal(2, 3, 2, 4), normal(2, 3, 2, 4), normal(2, 3, 2, 4)
    valid = jnp.array([[True] * 3, [False] * 3])

    @jax.jit
    def value_and_gradient(q, k, v):  # type: ignore[no-untyped-def]
        value, backward = jax.vjp(lambda q, k, v: attention(q, k, v, valid), q, k, v)
        return value, *backward(value)

    assert all(np.isfinite(array).all() for array in value_and_gradient(q, k, v))
