from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.models.attention import attention

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


def test_a_row_without_a_valid_key_stays_finite() -> None:
    q, k, v = normal(2, 3, 2, 4), normal(2, 3, 2, 4), normal(2, 3, 2, 4)
    valid = jnp.array([[True] * 3, [False] * 3])

    @jax.jit
    def value_and_gradient(q, k, v):  # type: ignore[no-untyped-def]
        value, backward = jax.vjp(lambda q, k, v: attention(q, k, v, valid), q, k, v)
        return value, *backward(value)

    assert all(np.isfinite(array).all() for array in value_and_gradient(q, k, v))
