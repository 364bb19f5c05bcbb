"""Attention with grouped heads, the mask of a model's pattern, and the key/value cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import qwix
from jax import lax

from cd4lm_jax.models.config import ModelConfig

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Int8

    Heads = Float[jax.Array, "batch kv_heads queries head_dim"]
    Keys = Float[jax.Array, "batch kv_heads keys head_dim"]
    Bias = Float[jax.Array, "batch 1 #queries keys"]


class RoundedHeads(NamedTuple):
    """Keys or values in int8.

    Attributes:
        numbers: `[*layers, batch, kv_heads, length, head_dim]` int8.
        scales: `[*layers, batch, kv_heads, length, 1]`; what was rounded is about their product.
    """

    numbers: Int8[jax.Array, "*layers batch kv_heads length head_dim"]
    scales: Float[jax.Array, "*layers batch kv_heads length 1"]


class KeyValues(NamedTuple):
    """Keys (after the rotary embedding) and values; those of a cache may be rounded.

    Attributes:
        keys: `[batch, kv_heads, length, head_dim]` of one layer; `[layers, ...]` of a stack.
        values: likewise.
    """

    keys: Float[jax.Array, "*layers batch kv_heads length head_dim"] | RoundedHeads
    values: Float[jax.Array, "*layers batch kv_heads length head_dim"] | RoundedHeads


KeyValueCache = KeyValues | list[KeyValues]
"""Keys and values of all layers: one stack where layers are scanned, else one entry a layer."""

C = TypeVar("C", KeyValues, KeyValueCache)


def rounded(cache: C) -> C:
    """Keys and values in int8, each head of each position with a scale of its own."""

    def heads(x: jax.Array) -> RoundedHeads:
        found = qwix.quantize(x, jnp.int8, channelwise_axes=range(x.ndim - 1))
        return RoundedHeads(found.qvalue, found.scale)

    return jax.tree.map(heads, cache)


def like(cache: KeyValueCache, own: KeyValueCache) -> KeyValueCache:
    """Keys and values that were computed, rounded where those of the cache are."""
    kept = cache[0].keys if isinstance(cache, list) else cache.keys
    return rounded(own) if isinstance(kept, RoundedHeads) else own


def attention(
    q: Float[jax.Array, "batch queries heads head_dim"],
    k: Float[jax.Array, "batch new_keys kv_heads head_dim"],
    v: Float[jax.Array, "batch new_keys kv_heads head_dim"],
    attention_mask: Bool[jax.Array, "batch keys"] | Bool[jax.Array, "batch queries keys"],
    cache: KeyValues | None = None,
) -> Float[jax.Array, "batch queries heads*head_dim"]:
    """Softmax attention; masked keys have no weight.

    Args:
        q: `[batch, queries, heads, head_dim]`.
        k: `[batch, new_keys, kv_heads, head_dim]`.
        v: likewise.
        attention_mask: `[batch, keys]` or `[batch, queries, keys]`, True where a query attends;
            keys are those of `cache`, then `k`. A query whose keys are all masked has a finite
            result without meaning.
        cache: further keys and values of this layer.

    Returns:
        `[batch, queries, heads * head_dim]` in the dtype of `q`.
    """
    batch, queries, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads
    # One batched matmul over (batch, kv_heads): the query heads of a group are rows.
    q = q.reshape(batch, queries, kv_heads, group, head_dim).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch, kv_heads, group * queries, head_dim) * head_dim**-0.5
    bias = jnp.where(attention_mask, 0.0, jnp.finfo(jnp.float32).min)
    if attention_mask.ndim == 2:
        bias = bias[:, None, None, :]
    else:  # every query head of a group has the mask of its query
        bias = jnp.tile(bias, (1, group, 1))[:, None]
    k, v = heads_first(k), heads_first(v)
    if cache is None:
        mixed = _attend(q, k, v, bias)
    else:
        mixed = _attend_with_cache(q, cache, KeyValues(k, v), bias)
    mixed = mixed.reshape(batch, kv_heads, group, queries, head_dim).transpose(0, 3, 1, 2, 4)
    return mixed.reshape(batch, queries, heads * head_dim)


def block_causal_mask(
    groups: Int[jax.Array, "batch queries"],
    key_groups: Int[jax.Array, "batch keys"],
    attention_mask: Bool[jax.Array, "batch keys"],
) -> Bool[jax.Array, "batch queries keys"]:
    """The mask under which a query attends keys of its own group and of earlier ones.

    Args:
        groups: `[batch, queries]`, the block of each query.
        key_groups: `[batch, keys]`, the block of each key.
        attention_mask: `[batch, keys]`, False on keys that no query attends.
    """
    return attention_mask[:, None, :] & (key_groups[:, None, :] <= groups[:, :, None])


def block_diffusion_mask(
    groups: Int[jax.Array, "batch length"],
    attention_mask: Bool[jax.Array, "batch length"] | Bool[jax.Array, "batch length length"],
) -> Bool[jax.Array, "batch 2*length 2*length"]:
    """The mask of BD3-LM (2503.09573) over `[noisy | clean]`, two versions of one text.

    A noisy position attends its own noisy block and the clean ones before it, a clean position
    clean blocks up to its own.

    Args:
        groups: `[batch, length]`, the block of each position.
        attention_mask: `[batch, keys]` or `[batch, queries, keys]` of one version, False on what a
            query attends in neither.
    """
    mask = attention_mask if attention_mask.ndim == 3 else attention_mask[:, None, :]
    own = (groups[:, :, None] == groups[:, None, :]) & mask
    before = (groups[:, :, None] > groups[:, None, :]) & mask
    noisy = jnp.concatenate([own, before], axis=2)
    clean = jnp.concatenate([jnp.zeros_like(own), own | before], axis=2)
    return jnp.concatenate([noisy, clean], axis=1)


def segment_mask(
    segments: Int[jax.Array, "batch length"],
    attention_mask: Bool[jax.Array, "batch length"] | Bool[jax.Array, "batch length length"],
) -> Bool[jax.Array, "batch length length"]:
    """The mask under which a query attends, of the keys it would, those of its own segment.

    Args:
        segments: `[batch, length]`, which of several packed texts a position belongs to.
        attention_mask: `[batch, keys]` or `[batch, queries, keys]`, True where a query attends.
    """
    mask = attention_mask if attention_mask.ndim == 3 else attention_mask[:, None, :]
    return mask & (segments[:, None, :] == segments[:, :, None])


def positions_of(
    valid: Bool[jax.Array, "batch length"], segments: Int[jax.Array, "batch length"] | None = None
) -> Int[jax.Array, "batch length"]:
    """Positions `[batch, length]`, counted from a row's first valid token, or a segment's first."""
    if segments is None:
        return jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
    place = jnp.broadcast_to(jnp.arange(segments.shape[1]), segments.shape)
    begins = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return place - lax.cummax(jnp.where(begins, place, 0), axis=1)


def attention_groups(
    config: ModelConfig,
    valid: Bool[jax.Array, "batch length"],
    segments: Int[jax.Array, "batch length"] | None = None,
) -> Int[jax.Array, "batch length"] | None:
    """The groups of the model's own attention: blocks, or positions where it is causal.

    Args:
        config: the architecture.
        valid: `[batch, length]`, False on padding.
        segments: `[batch, length]`, see `segment_mask`; None where a row is one text.

    Returns:
        `[batch, length]`, or None where every position attends all.

    Raises:
        ValueError: blocks are counted from the start of the generation, which the caller must
            give groups for.
    """
    if config.attention == "full":
        return None
    if config.attention == "causal":
        return positions_of(valid, segments)
    if config.blocks == "generation":
        raise ValueError(
            "the model attends by blocks that count from the start of the generation, which only "
            "the caller knows; give groups"
        )
    return positions_of(valid, segments) // config.block_length


def heads_first(
    x: Float[jax.Array, "batch length heads head_dim"],
) -> Float[jax.Array, "batch heads length head_dim"]:
    """Swaps the axes of length and heads."""
    return x.transpose(0, 2, 1, 3)


def _attend_with_cache(q: Heads, cache: KeyValues, new: KeyValues, bias: Bias) -> Heads:
    """As `_attend` over the keys of `cache` and `new`; joining the arrays would copy both."""
    scores = [_scores(q, k) for k, _ in (cache, new)]
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1) + bias, axis=-1).astype(q.dtype)
    parts = jnp.split(weights, [scores[0].shape[-1]], axis=-1)
    mixed = [_mixed(part, v) for part, (_, v) in zip(parts, (cache, new), strict=True)]
    return (mixed[0] + mixed[1]).astype(q.dtype)


def _scores(q: Heads, k: Keys | RoundedHeads) -> jax.Array:
    """`q k^T` in float32; the scale of a key multiplies its scores."""
    if isinstance(k, RoundedHeads):
        return _scores(q, k.numbers.astype(q.dtype)) * jnp.swapaxes(k.scales, -1, -2)
    return jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)


def _mixed(weights: jax.Array, v: Keys | RoundedHeads) -> jax.Array:
    """`weights v` in float32; the scale of a value multiplies its weight."""
    if isinstance(v, RoundedHeads):
        weights = (weights * jnp.swapaxes(v.scales, -1, -2)).astype(weights.dtype)
        return _mixed(weights, v.numbers.astype(weights.dtype))
    return jnp.einsum("bhqk,bhkd->bhqd", weights, v, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _attend(q: Heads, k: Keys, v: Keys, bias: Bias) -> Heads:
    """`softmax(q k^T + bias) v`, softmax in float32.

    The backward pass is written out: from the saved weights and the output it takes four
    matmuls and one pass over the scores, which XLA's own derivative of softmax does not reach
    (on CPU it takes 1.6x the time).

    Args:
        q: `[batch, kv_heads, queries, head_dim]`, scaled.
        k: `[batch, kv_heads, keys, head_dim]`.
        v: likewise.
        bias: `[batch, 1, queries or 1, keys]` float32, 0 or the lowest number.

    Returns:
        `[batch, kv_heads, queries, head_dim]`.
    """
    return _attend_forward(q, k, v, bias)[0]


class _Saved(NamedTuple):
    """What the backward pass needs: the inputs, the softmax weights and the output."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    weights: jax.Array  # [batch, kv_heads, queries, keys]
    mixed: jax.Array


def _attend_forward(q: Heads, k: Keys, v: Keys, bias: Bias) -> tuple[Heads, _Saved]:
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32) + bias
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, v)
    return mixed, _Saved(q, k, v, weights, mixed)


def _attend_backward(saved: _Saved, d_mixed: Heads) -> tuple[Heads, Keys, Keys, None]:
    q, k, v, weights, mixed = saved
    d_v = jnp.einsum("bhqk,bhqd->bhkd", weights, d_mixed)
    d_weights = jnp.einsum("bhqd,bhkd->bhqk", d_mixed, v, preferred_element_type=jnp.float32)
    # sum_k weights * d_weights, without going over the scores again (as FlashAttention does).
    product = d_mixed.astype(jnp.float32) * mixed.astype(jnp.float32)
    centre = jnp.sum(product, axis=-1, keepdims=True)
    d_scores = (weights * (d_weights - centre)).astype(q.dtype)
    d_q = jnp.einsum("bhqk,bhkd->bhqd", d_scores, k)
    return d_q, jnp.einsum("bhqk,bhqd->bhkd", d_scores, q), d_v, None


_attend.defvjp(_attend_forward, _attend_backward)
