"""The masked-diffusion transformer: embed, a stack of blocks, norm, head.

Modules are flax NNX modules used as plain pytrees: no mutation, no references shared between
modules, so ``jax.jit``, ``jax.grad`` and ``jax.lax.scan`` take them as they are.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cd4lm_jax.models import layers
from cd4lm_jax.models.config import ModelConfig

Remat = Literal["none", "dots", "full"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How a model runs, as opposed to what it is: never stored with the weights.

    Attributes:
        dtype: compute dtype of the residual stream and the matmuls. Norms, rotary angles,
            softmax and logits are float32 whatever it is.
        scan_layers: one compiled block under ``lax.scan``; False unrolls the stack.
        remat: what the backward pass computes again: nothing, all but the matmuls, or all.
    """

    dtype: str = "float32"
    scan_layers: bool = True
    remat: Remat = "none"

    @classmethod
    def for_decoding(cls, config: ModelConfig, dtype: str = "float32") -> Execution:
        """Up to eight layers unrolled, which is quicker; more scanned.

        An unrolled decode copies its layers out of the stack, see :meth:`Transformer.by_layer`:
        memory holds the weights twice.
        """
        return cls(dtype=dtype, scan_layers=config.num_layers > 8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """The positions whose predictions are wanted: ``[start, start + length)`` of each row.

    The last block's queries and MLP, and the head, run on the window alone.

    Attributes:
        start: ``[batch]`` int32, traced.
        length: static.
    """

    start: jax.Array
    length: int

    def of(self, x: jax.Array) -> jax.Array:
        """``[batch, length, ...]`` to ``[batch, window, ...]``."""
        take = jax.vmap(lambda row, at: lax.dynamic_slice_in_dim(row, at, self.length))
        return take(x, self.start)


class KeyValues(NamedTuple):
    """Keys (rotated) and values, ``[layers, batch, kv_heads, length, head_dim]``."""

    keys: jax.Array
    values: jax.Array


KeyValueCache = KeyValues | list[KeyValues]
"""Of all layers: scanned in one, unrolled one each (without the axis of the layers)."""


class Block(nnx.Module):
    """Pre-norm attention and SiLU-gated MLP. Kernels are ``[in, out]``."""

    def __init__(self, config: ModelConfig, key: jax.Array):
        width, mlp = config.embed_dim, config.mlp_dim
        queries = config.num_heads * config.head_dim
        keys = config.num_kv_heads * config.head_dim
        keygen = iter(jax.random.split(key, 7))
        # Outputs into the residual stream start small, so that depth does not add up.
        residual = (2 * config.num_layers) ** -0.5

        def kernel(fan_in: int, fan_out: int, gain: float = 1.0) -> nnx.Param[jax.Array]:
            draw = jax.random.normal(next(keygen), (fan_in, fan_out), jnp.float32)
            return nnx.Param(draw * (gain * fan_in**-0.5))

        self.config = config
        self.attention_norm = nnx.Param(jnp.ones(width))
        self.query = kernel(width, queries)
        self.key = kernel(width, keys)
        self.value = kernel(width, keys)
        self.attention_out = kernel(queries, width, residual)
        self.mlp_norm = nnx.Param(jnp.ones(width))
        self.gate = kernel(width, mlp)
        self.up = kernel(width, mlp)
        self.down = kernel(mlp, width, residual)
        if config.qkv_bias:
            self.query_bias = nnx.Param(jnp.zeros(queries))
            self.key_bias = nnx.Param(jnp.zeros(keys))
            self.value_bias = nnx.Param(jnp.zeros(keys))

    def _project(self, name: str, x: jax.Array) -> jax.Array:
        bias = getattr(self, f"{name}_bias")[...] if self.config.qkv_bias else None
        heads = layers.linear(x, getattr(self, name)[...], bias)
        return heads.reshape(*x.shape[:-1], -1, self.config.head_dim)

    def __call__(
        self,
        x: jax.Array,
        angles: tuple[jax.Array, jax.Array],
        attention_mask: jax.Array,
        window: Window | None = None,
        cache: KeyValues | None = None,
    ) -> tuple[jax.Array, KeyValues]:
        """One layer.

        Args:
            x: ``[batch, length, embed]``.
            angles: rotary, of these positions.
            attention_mask: ``[batch, keys]`` or ``[batch, length, keys]`` bool, True where a
                query attends; keys are those of ``cache``, then this call's own.
            window: the positions that leave; all when None.
            cache: keys and values of this layer, ``[batch, kv_heads, keys, head_dim]``.

        Returns:
            ``[batch, length or window, embed]``, and this call's own keys and values.
        """
        eps = self.config.norm_eps
        cos, sin = angles
        normed = layers.rms_norm(x, self.attention_norm[...], eps)
        k = layers.rotate(self._project("key", normed), cos, sin)
        v = self._project("value", normed)
        if window is not None:
            x, normed, cos, sin = (window.of(array) for array in (x, normed, cos, sin))
            attention_mask = (
                window.of(attention_mask) if attention_mask.ndim == 3 else attention_mask
            )
        q = layers.rotate(self._project("query", normed), cos, sin)
        x = x + layers.linear(
            layers.attention(q, k, v, attention_mask, cache), self.attention_out[...]
        )
        normed = layers.rms_norm(x, self.mlp_norm[...], eps)
        gate = jax.nn.silu(layers.linear(normed, self.gate[...]))
        x = x + layers.linear(gate * layers.linear(normed, self.up[...]), self.down[...])
        return x, KeyValues(layers.heads_first(k), layers.heads_first(v))


class Transformer(nnx.Module):
    """LLaDA-type masked-diffusion language model."""

    def __init__(self, config: ModelConfig, key: jax.Array, execution: Execution = Execution()):
        embed_key, block_key, head_key = jax.random.split(key, 3)
        block_keys = jax.random.split(block_key, config.num_layers)
        table = (config.vocab_size, config.embed_dim)
        self.config = config
        self.execution = execution
        self.embedding = nnx.Param(0.02 * jax.random.normal(embed_key, table))
        # One tree whose leaves are stacked over the layers.
        self.blocks = jax.vmap(lambda key: Block(config, key))(block_keys)
        self.norm = nnx.Param(jnp.ones(config.embed_dim))
        if not config.tie_head:
            draw = jax.random.normal(head_key, table[::-1])
            self.head = nnx.Param(draw * config.embed_dim**-0.5)

    def by_layer(self) -> Transformer:
        """The model for a loop that runs it in every turn: an unrolled stack comes apart.

        XLA lifts no slice out of a loop: taken from the stack there, all weights would be copied
        in every turn. A model that scans its layers stays as it is.
        """
        return self if self.execution.scan_layers else _apart(self)

    @property
    def head_kernel(self) -> jax.Array:
        """``[embed, vocab]``, whether or not it is tied to the embedding."""
        return self.embedding[...].T if self.config.tie_head else self.head[...]

    def hidden(
        self,
        tokens: jax.Array,
        valid: jax.Array,
        window: Window | None = None,
        groups: jax.Array | None = None,
    ) -> jax.Array:
        """Final normed states; the state at i is the one that predicts token i.

        Args:
            tokens: ``[batch, length]`` int32.
            valid: ``[batch, length]`` bool, False on padding (left or right). Positions count
                from a row's first valid token.
            window: the positions wanted; all when None.
            groups: ``[batch, length]`` int32 for block-causal attention: a position attends those
                whose group is not above its own. None for all of them.

        Returns:
            ``[batch, length or window, embed]`` in the compute dtype.
        """
        return self._whole(tokens, valid, window, groups, keep=False)[0]

    def prefill(
        self,
        tokens: jax.Array,
        valid: jax.Array,
        window: Window,
        groups: jax.Array | None = None,
    ) -> tuple[jax.Array, KeyValueCache]:
        """As :meth:`hidden`, with all keys and values for :meth:`cached_forward`."""
        hidden, cache = self._whole(tokens, valid, window, groups, keep=True)
        assert cache is not None
        return hidden, cache

    def cached_forward(
        self,
        tokens: jax.Array,
        valid: jax.Array,
        window: Window,
        cache: KeyValueCache,
        *,
        suffix: int = 0,
        groups: jax.Array | None = None,
    ) -> jax.Array:
        """As :meth:`hidden` of the window, other positions' keys and values taken from ``cache``.

        Args:
            tokens, valid, window, groups: see :meth:`hidden`.
            cache: of the whole length, from :meth:`prefill`.
            suffix: static. 0: the window alone is computed (Fast-dLLM's dual cache). Otherwise
                what lies before the window is taken from ``cache`` and all that follows is computed
                (its prefix cache), as part of the last ``suffix`` positions, which must hold the
                window.
        """
        length, shift = tokens.shape[1], self._shift
        start = window.start - shift
        fresh = Window(start=start, length=window.length + shift)
        if suffix:
            fresh = Window(
                start=jnp.full_like(start, length - suffix - shift), length=suffix + shift
            )
        place, begin = jnp.arange(length), start[:, None]
        renewed = place >= begin
        if not suffix:
            renewed &= place < begin + fresh.length
        attention_mask = jnp.concatenate([valid & ~renewed, fresh.of(valid & renewed)], axis=1)
        if groups is not None:
            own = fresh.of(groups)
            attention_mask = _up_to(own, jnp.concatenate([groups, own], axis=1), attention_mask)
        cos, sin = self._angles(valid)
        wanted = None
        if suffix or shift:
            wanted = Window(start=start - fresh.start, length=window.length)
        x = self._embed(fresh.of(tokens))
        x, _ = self._stack(x, (fresh.of(cos), fresh.of(sin)), attention_mask, wanted, cache)
        return layers.rms_norm(x, self.norm[...], self.config.norm_eps)

    def _whole(
        self,
        tokens: jax.Array,
        valid: jax.Array,
        window: Window | None,
        groups: jax.Array | None,
        *,
        keep: bool,
    ) -> tuple[jax.Array, KeyValueCache | None]:
        if window is not None and self._shift:
            window = dataclasses.replace(window, start=jnp.maximum(window.start - 1, 0))
        attention_mask = valid if groups is None else _up_to(groups, groups, valid)
        x, cache = self._stack(
            self._embed(tokens), self._angles(valid), attention_mask, window, keep=keep
        )
        x = layers.rms_norm(x, self.norm[...], self.config.norm_eps)
        if self._shift and window is None:
            x = jnp.concatenate([x[:, :1], x[:, :-1]], axis=1)
        return x, cache

    @property
    def _shift(self) -> int:
        """How many positions before a token the state is that predicts it."""
        return int(self.config.alignment == "shifted")

    def _embed(self, tokens: jax.Array) -> jax.Array:
        return self.embedding[...].astype(self.execution.dtype)[tokens]

    def _angles(self, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
        positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
        return layers.rotary_angles(positions, self.config.head_dim, self.config.rope_theta)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """``[..., embed]`` to float32 ``[..., vocab]``."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        kernel = self.head_kernel.astype(hidden.dtype)
        scores = jnp.dot(flat, kernel, preferred_element_type=jnp.float32)
        return scores.reshape(*hidden.shape[:-1], kernel.shape[-1])

    def __call__(
        self,
        tokens: jax.Array,
        valid: jax.Array,
        window: Window | None = None,
        groups: jax.Array | None = None,
    ) -> jax.Array:
        """Float32 logits ``[batch, length or window, vocab]``; see :meth:`hidden`."""
        return self.logits(self.hidden(tokens, valid, window, groups))

    def _stack(
        self,
        x: jax.Array,
        angles: tuple[jax.Array, jax.Array],
        attention_mask: jax.Array,
        window: Window | None,
        cache: KeyValueCache | None = None,
        *,
        keep: bool = False,
    ) -> tuple[jax.Array, KeyValueCache | None]:
        """All blocks; with ``keep``, also the keys and values that they computed."""

        def run(
            block: Block, x: jax.Array, cache: KeyValues | None, window: Window | None = None
        ) -> tuple[jax.Array, KeyValues | None]:
            x, own = block(x, angles, attention_mask, window, cache)
            return x, own if keep else None

        middle = run
        if self.execution.remat == "full":
            middle = jax.checkpoint(run)
        elif self.execution.remat == "dots":
            policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            middle = jax.checkpoint(run, policy=policy)

        def layer(index: Any) -> tuple[Block, KeyValues | None]:
            return _layer(self.blocks, index), _layer(cache, index)

        last = self.config.num_layers - 1

        def end(x: jax.Array) -> tuple[jax.Array, KeyValues | None]:
            block, before = layer(last)
            return run(block, x, before, window) if window else middle(block, x, before)

        if not self.execution.scan_layers:
            kept: list[Any] = []
            for index in range(last):
                block, before = layer(index)
                x, own = middle(block, x, before)
                kept.append(own)
            x, own = end(x)
            return x, [*kept, own] if keep else None
        if window is None and cache is None and not keep:
            return lax.scan(lambda x, block: middle(block, x, None), x, self.blocks)[0], None

        # The last block differs, so the scan goes over indices: slicing the stack itself would
        # copy all but one layer of the weights.
        def step(x: jax.Array, index: jax.Array) -> tuple[jax.Array, KeyValues | None]:
            block, before = layer(index)
            return middle(block, x, before)

        x, most = lax.scan(step, x, jnp.arange(last))
        x, own = end(x)
        return x, jax.tree.map(lambda some, one: jnp.concatenate([some, one[None]]), most, own)


@jax.jit
def _apart(model: Transformer) -> Transformer:
    apart, layers = copy.copy(model), range(model.config.num_layers)
    apart.blocks = nnx.List(_layer(model.blocks, i) for i in layers)  # type: ignore[assignment]
    return apart


def _layer(stack: Any, index: Any) -> Any:
    """One layer of a stack of them, or of a list."""
    if isinstance(stack, list | nnx.List):
        return stack[index]
    return jax.tree.map(lambda leaf: leaf[index], stack)


def _up_to(groups: jax.Array, key_groups: jax.Array, attention_mask: jax.Array) -> jax.Array:
    """``[batch, queries, keys]``: the mask narrowed to keys of no later group."""
    return attention_mask[:, None, :] & (key_groups[:, None, :] <= groups[:, :, None])


_LOGICAL_AXES: dict[str, tuple[str | None, ...]] = {
    "embedding": ("vocab", "embed"),
    "head": ("embed", "vocab"),
    "norm": ("norm",),
    "attention_norm": ("layers", "norm"),
    "query": ("layers", "embed", "heads"),
    "key": ("layers", "embed", "kv_heads"),
    "value": ("layers", "embed", "kv_heads"),
    "query_bias": ("layers", "heads"),
    "key_bias": ("layers", "kv_heads"),
    "value_bias": ("layers", "kv_heads"),
    "attention_out": ("layers", "heads", "embed"),
    "mlp_norm": ("layers", "norm"),
    "gate": ("layers", "embed", "mlp"),
    "up": ("layers", "embed", "mlp"),
    "down": ("layers", "mlp", "embed"),
}


def logical_axes(name: str) -> tuple[str | None, ...]:
    """Logical axes of a parameter, or of an optimizer moment of it, by its dotted name.

    Whatever is no parameter (step counters) is replicated: no axes.
    """
    return _LOGICAL_AXES.get(name.rpartition(".")[2], ())
