"""The parts of a block that hold no parameters: linear, RMSNorm, rotary embedding, attention."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """``x [..., in] @ kernel [in, out]`` in the dtype of ``x``.

    The leading axes are flattened first: XLA on CPU reaches about twice the rate on one
    rank-2 matmul that it does on a rank-3 one, and elsewhere the reshape is free.
    """
    flat = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
    if bias is not None:
        flat = flat + bias.astype(x.dtype)
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """RMSNorm in float32, cast back, then scaled, in LLaDA's own order of operations."""
    x32 = x.astype(jnp.float32)
    normed = x32 * lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return normed.astype(x.dtype) * scale.astype(x.dtype)


def rotary_angles(positions: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine ``[batch, length, head_dim / 2]`` (float32) of ``positions [batch, length]``.

    Float32 throughout: bfloat16 cannot tell position 257 from 256.
    """
    wavelengths = theta ** (jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions.astype(jnp.float32)[..., None] / wavelengths
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotary embedding over the full head, "rotate-half" pairing (Su et al., 2104.09864).

    Args:
        x: ``[batch, length, heads, head_dim]``.
        cos, sin: ``[batch, length, head_dim / 2]`` from :func:`rotary_angles`.
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    attention_mask: jax.Array,
    cache: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """Attention with grouped heads; masked keys have no weight.

    Args:
        q: ``[batch, queries, heads, head_dim]``.
        k, v: ``[batch, keys, kv_heads, head_dim]``.
        attention_mask: ``[batch, keys]`` bool, or ``[batch, queries, keys]``, True where a query
            attends; keys are those of ``cache``, then ``k``. A query whose keys are all masked
            has a finite result without meaning.
        cache: more keys and values, ``[batch, kv_heads, keys, head_dim]``.

    Returns:
        ``[batch, queries, heads * head_dim]``.
    """
    batch, queries, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads
    # One batched matmul over (batch, kv_heads): the query heads of a group lie along the rows.
    q = q.reshape(batch, queries, kv_heads, group, head_dim).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch, kv_heads, group * queries, head_dim) * head_dim**-0.5
    bias = jnp.where(attention_mask, 0.0, jnp.finfo(jnp.float32).min)
    # Where queries differ in what they attend, the heads of a group repeat that in turn.
    bias = (
        bias[:, None, None, :]
        if attention_mask.ndim == 2
        else jnp.tile(bias, (1, group, 1))[:, None]
    )
    k, v = heads_first(k), heads_first(v)
    mixed = _mix(q, k, v, bias) if cache is None else _mix_with_cache(q, cache, (k, v), bias)
    mixed = mixed.reshape(batch, kv_heads, group, queries, head_dim).transpose(0, 3, 1, 2, 4)
    return mixed.reshape(batch, queries, heads * head_dim)


def heads_first(x: jax.Array) -> jax.Array:
    """``[batch, length, heads, head_dim]`` to ``[batch, heads, length, head_dim]``."""
    return x.transpose(0, 2, 1, 3)


def _mix_with_cache(
    q: jax.Array,
    cache: tuple[jax.Array, jax.Array],
    new: tuple[jax.Array, jax.Array],
    bias: jax.Array,
) -> jax.Array:
    """As `_mix`, the cache not joined with the new keys, which would copy both."""
    scores = [
        jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
        for k, _ in (cache, new)
    ]
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1) + bias, axis=-1).astype(q.dtype)
    parts = jnp.split(weights, [cache[0].shape[2]], axis=-1)
    mixed = [
        jnp.einsum("bhqk,bhkd->bhqd", weights, v, preferred_element_type=jnp.float32)
        for weights, (_, v) in zip(parts, (cache, new), strict=True)
    ]
    return (mixed[0] + mixed[1]).astype(q.dtype)


@jax.custom_vjp
def _mix(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
    """``softmax(q k^T + bias) v`` over ``[batch, heads, length, head_dim]``, softmax in float32.

    The backward pass is written out: from the kept weights and the output it takes four
    matmuls and one pass over the scores, which XLA's own derivative of softmax does not reach
    (on CPU it takes 1.6x the time).
    """
    return _mix_forward(q, k, v, bias)[0]


def _mix_forward(q, k, v, bias):  # type: ignore[no-untyped-def]
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32) + bias
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, v)
    return mixed, (q, k, v, weights, mixed)


def _mix_backward(saved, d_mixed):  # type: ignore[no-untyped-def]
    q, k, v, weights, mixed = saved
    d_v = jnp.einsum("bhqk,bhqd->bhkd", weights, d_mixed)
    d_weights = jnp.einsum("bhqd,bhkd->bhqk", d_mixed, v, preferred_element_type=jnp.float32)
    # sum_k weights * d_weights, without going over the scores again (as FlashAttention does).
    product = d_mixed.astype(jnp.float32) * mixed.astype(jnp.float32)
    centre = jnp.sum(product, axis=-1, keepdims=True)
    d_scores = (weights * (d_weights - centre)).astype(q.dtype)
    d_q = jnp.einsum("bhqk,bhkd->bhqd", d_scores, k)
    return d_q, jnp.einsum("bhqk,bhqd->bhkd", d_scores, q), d_v, None


_mix.defvjp(_mix_forward, _mix_backward)
