"""One layer of the transformer: attention and MLP around a residual stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from cd4lm_jax.models import experts, layers
from cd4lm_jax.models.attention import KeyValues, attention, heads_first
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.window import Window

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


LOGICAL_AXES: dict[str, tuple[str | None, ...]] = {
    "attention_norm": ("norm",),
    "query": ("embed", "heads"),
    "key": ("embed", "kv_heads"),
    "value": ("embed", "kv_heads"),
    "query_bias": ("heads",),
    "key_bias": ("kv_heads",),
    "value_bias": ("kv_heads",),
    "query_norm": ("norm",),
    "key_norm": ("norm",),
    "attention_out": ("heads", "embed"),
    "mlp_norm": ("norm",),
    "gate": ("embed", "mlp"),
    "up": ("embed", "mlp"),
    "down": ("mlp", "embed"),
    "router": ("embed", None),
    "router_bias": (None,),
    "expert_gate": ("experts", "embed", "mlp"),
    "expert_up": ("experts", "embed", "mlp"),
    "expert_down": ("experts", "mlp", "embed"),
    "shared_gate": ("embed", "mlp"),
    "shared_up": ("embed", "mlp"),
    "shared_down": ("mlp", "embed"),
}
"""Of the parameters of one layer."""


class Block(nnx.Module):
    """Pre-norm attention and SiLU-gated MLP, or experts in its place.

    Attributes:
        config: the architecture.
        attention_norm: `[embed]`.
        query: `[embed, heads * head_dim]`.
        key: `[embed, kv_heads * head_dim]`.
        value: likewise.
        attention_out: `[heads * head_dim, embed]`.
        mlp_norm: `[embed]`.
        gate: `[embed, mlp]`.
        up: likewise.
        down: `[mlp, embed]`.
        query_bias: `[heads * head_dim]`, where the architecture has biases.
        key_bias: `[kv_heads * head_dim]`, likewise.
        value_bias: likewise.
        query_norm: `[head_dim]`, where the architecture normalises heads.
        key_norm: likewise.
        router: `[embed, experts]`, in layers with experts, which have no MLP of their own.
        router_bias: `[experts]`, where the choice of experts is biased.
        expert_gate: `[experts, embed, width]`.
        expert_up: likewise.
        expert_down: `[experts, width, embed]`.
        shared_gate: `[embed, shared * width]`, where some experts are shared.
        shared_up: likewise.
        shared_down: `[shared * width, embed]`.
    """

    def __init__(self, config: ModelConfig, key: jax.Array, *, dense: bool = False) -> None:
        width, mlp = config.embed_dim, config.mlp_dim
        queries = config.num_heads * config.head_dim
        keys = config.num_kv_heads * config.head_dim
        keygen = iter(jax.random.split(key, 7 if config.experts is None else 11))
        # Outputs into the residual stream start small, so that depth does not add up.
        residual = (2 * config.num_layers) ** -0.5

        def kernel(
            fan_in: int, fan_out: int, gain: float = 1.0, count: tuple[int, ...] = ()
        ) -> nnx.Param[jax.Array]:
            draw = jax.random.normal(next(keygen), (*count, fan_in, fan_out), jnp.float32)
            return nnx.Param(draw * (gain * fan_in**-0.5))

        self.config = config
        self.attention_norm = nnx.Param(jnp.ones(width))
        self.query = kernel(width, queries)
        self.key = kernel(width, keys)
        self.value = kernel(width, keys)
        self.attention_out = kernel(queries, width, residual)
        self.mlp_norm = nnx.Param(jnp.ones(width))
        if config.experts is None or dense:
            self.gate = kernel(width, mlp)
            self.up = kernel(width, mlp)
            self.down = kernel(mlp, width, residual)
        else:
            inner, count = config.experts.width, (config.experts.count,)
            self.router = kernel(width, config.experts.count)
            if config.experts.biased:
                self.router_bias = nnx.Param(jnp.zeros(config.experts.count))
            self.expert_gate = kernel(width, inner, count=count)
            self.expert_up = kernel(width, inner, count=count)
            self.expert_down = kernel(inner, width, residual, count=count)
            if config.experts.shared:
                shared = config.experts.shared * inner
                self.shared_gate = kernel(width, shared)
                self.shared_up = kernel(width, shared)
                self.shared_down = kernel(shared, width, residual)
        if config.qkv_bias:
            self.query_bias = nnx.Param(jnp.zeros(queries))
            self.key_bias = nnx.Param(jnp.zeros(keys))
            self.value_bias = nnx.Param(jnp.zeros(keys))
        if config.qk_norm:
            self.query_norm = nnx.Param(jnp.ones(config.head_dim))
            self.key_norm = nnx.Param(jnp.ones(config.head_dim))

    def __call__(
        self,
        x: Float[jax.Array, "batch length embed"],
        angles: tuple[
            Float[jax.Array, "batch length pairs"], Float[jax.Array, "batch length pairs"]
        ],
        attention_mask: Bool[jax.Array, "batch keys"] | Bool[jax.Array, "batch length keys"],
        window: Window | None = None,
        cache: KeyValues | None = None,
    ) -> tuple[Float[jax.Array, "batch queries embed"], KeyValues]:
        """The layer's output.

        Args:
            x: the residual stream, `[batch, length, embed]`.
            angles: rotary cosine and sine of these positions, `[batch, length, pairs]`.
            attention_mask: `[batch, keys]` or `[batch, length, keys]`, True where a query
                attends; keys are those of `cache`, then those of `x`.
            window: the positions whose output is wanted; None for all.
            cache: further keys and values of this layer.

        Returns:
            `[batch, length or window, embed]`, and the keys and values of `x`.
        """
        eps = self.config.norm_eps
        cos, sin = angles
        normed = layers.rms_norm(x, self.attention_norm[...], eps)
        k = layers.rotate(self._normed("key", self._project("key", normed)), cos, sin)
        v = self._project("value", normed)
        if window is not None:
            x, normed, cos, sin = (window.of(array) for array in (x, normed, cos, sin))
            if attention_mask.ndim == 3:
                attention_mask = window.of(attention_mask)
        q = layers.rotate(self._normed("query", self._project("query", normed)), cos, sin)
        mixed = attention(q, k, v, attention_mask, cache)
        x = x + layers.linear(mixed, self.attention_out[...])
        normed = layers.rms_norm(x, self.mlp_norm[...], eps)
        x = x + (self._experts(normed) if hasattr(self, "router") else self._mlp(normed))
        return x, KeyValues(heads_first(k), heads_first(v))

    def _mlp(
        self, x: Float[jax.Array, "batch length embed"], prefix: str = ""
    ) -> Float[jax.Array, "batch length embed"]:
        gate, up, down = (getattr(self, f"{prefix}{name}")[...] for name in ("gate", "up", "down"))
        return layers.linear(jax.nn.silu(layers.linear(x, gate)) * layers.linear(x, up), down)

    def _experts(
        self, x: Float[jax.Array, "batch length embed"]
    ) -> Float[jax.Array, "batch length embed"]:
        config = self.config.experts
        assert config is not None
        flat = x.reshape(-1, x.shape[-1])
        bias = self.router_bias[...] if config.biased else None
        mixed = experts.mixture(
            flat,
            experts.route(config, flat, self.router[...], bias),
            self.expert_gate[...],
            self.expert_up[...],
            self.expert_down[...],
        ).reshape(x.shape)
        return mixed + self._mlp(x, "shared_") if config.shared else mixed

    def _project(
        self, name: str, x: Float[jax.Array, "batch length embed"]
    ) -> Float[jax.Array, "batch length heads head_dim"]:
        bias = getattr(self, f"{name}_bias")[...] if self.config.qkv_bias else None
        # Unless the product ends here, XLA for TPU gives it the layout of the heads, for which it
        # transposes the kernel: a copy of all of them, and twice the time of the product.
        heads = jax.lax.optimization_barrier(layers.linear(x, getattr(self, name)[...], bias))
        return heads.reshape(*x.shape[:-1], -1, self.config.head_dim)

    def _normed(
        self, name: str, heads: Float[jax.Array, "batch length heads head_dim"]
    ) -> Float[jax.Array, "batch length heads head_dim"]:
        """Queries or keys, each head normalised where the architecture has it."""
        if not self.config.qk_norm:
            return heads
        return layers.rms_norm(heads, getattr(self, f"{name}_norm")[...], self.config.norm_eps)
