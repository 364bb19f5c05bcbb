"""The masked-diffusion transformer: embedding, a stack of blocks, norm, head.

Modules are flax NNX modules used as plain pytrees: no mutation, no references shared between
modules, so `jax.jit`, `jax.grad` and `jax.lax.scan` take them as they are.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from cd4lm_jax.models import layers, stacks
from cd4lm_jax.models.attention import (
    KeyValueCache,
    attention_groups,
    block_causal_mask,
    block_diffusion_mask,
    like,
    positions_of,
    segment_mask,
)
from cd4lm_jax.models.block import Block
from cd4lm_jax.models.config import ModelConfig, check_dtype
from cd4lm_jax.models.quantization import QuantizedKernel
from cd4lm_jax.models.window import Window

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Remat = Literal["none", "dots", "full"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How a model runs, as opposed to what it is: never stored with the weights.

    Attributes:
        dtype: compute dtype of the residual stream and the matmuls. Norms, rotary angles,
            softmax and logits are float32 whatever it is.
        scan_layers: one compiled block under `lax.scan`; False unrolls the stack.
        remat: what the backward pass computes again: nothing, all but the matmuls, or all.
    """

    dtype: str = "float32"
    scan_layers: bool = True
    remat: Remat = "none"

    def __post_init__(self) -> None:
        check_dtype(self.dtype, "execution.dtype")


class Transformer(nnx.Module):
    """LLaDA-type masked-diffusion language model.

    Attributes:
        config: the architecture.
        execution: how it runs.
        embedding: `[vocab, embed]`.
        blocks: the layers, one `Block` whose arrays have a leading axis of layers.
        dense_blocks: likewise, the first layers of a model of experts that have none; before the
            others, which then are fewer.
        norm: `[embed]`.
        head: `[embed, vocab]`, where it is not the transposed embedding.
    """

    def __init__(
        self, config: ModelConfig, key: jax.Array, execution: Execution = Execution()
    ) -> None:
        embed_key, block_key, head_key = jax.random.split(key, 3)
        block_keys = jax.random.split(block_key, config.num_layers)
        table = (config.vocab_size, config.embed_dim)
        self.config = config
        self.execution = execution
        self.embedding = nnx.Param(0.02 * jax.random.normal(embed_key, table))
        dense = config.dense_layers
        self.blocks = jax.vmap(lambda key: Block(config, key))(block_keys[dense:])
        if dense:
            self.dense_blocks = jax.vmap(lambda key: Block(config, key, dense=True))(
                block_keys[:dense]
            )
        self.norm = nnx.Param(jnp.ones(config.embed_dim))
        if not config.tie_head:
            draw = jax.random.normal(head_key, table[::-1])
            self.head = nnx.Param(draw * config.embed_dim**-0.5)

    def by_layer(self, *, consume: bool = False) -> Transformer:
        """The model for a compiled loop over passes: an unrolled stack is split into its layers.

        XLA moves no slice out of a loop: taken from the stack there, all weights would be copied
        in every pass. A model that scans its layers is returned as it is.

        Args:
            consume: delete the stack meanwhile, so that memory does not hold the weights twice.
        """
        return self if self.execution.scan_layers else stacks.split(self, consume=consume)

    def in_stacks(self) -> Transformer:
        """The model with its layers in a stack, as folders have it: the inverse of `by_layer`."""
        return stacks.join(self)

    @property
    def head_kernel(self) -> Float[jax.Array, "embed vocab"] | QuantizedKernel:
        """`[embed, vocab]`, whether or not it is tied to the embedding."""
        return self.embedding[...].T if self.config.tie_head else self.head[...]

    def __call__(
        self,
        tokens: Int[jax.Array, "batch length"],
        valid: Bool[jax.Array, "batch length"],
        window: Window | None = None,
        groups: Int[jax.Array, "batch length"] | None = None,
    ) -> Float[jax.Array, "batch window vocab"]:
        """Float32 logits `[batch, length or window, vocab]`; arguments as for `hidden`."""
        return self.logits(self.hidden(tokens, valid, window, groups))

    def hidden(
        self,
        tokens: Int[jax.Array, "batch length"],
        valid: Bool[jax.Array, "batch length"],
        window: Window | None = None,
        groups: Int[jax.Array, "batch length"] | None = None,
        segments: Int[jax.Array, "batch length"] | None = None,
    ) -> Float[jax.Array, "batch window embed"]:
        """Final normed states; the state at i is the one that predicts token i.

        Args:
            tokens: `[batch, length]`.
            valid: `[batch, length]`, False on padding (left or right). Positions count from a
                row's first valid token.
            window: the positions wanted; None for all.
            groups: `[batch, length]`: a position attends those whose group is not above its own.
                None for the model's own attention, see `attention_groups`.
            segments: `[batch, length]`, which of several packed texts a position belongs to: each
                is computed as if it were a row of its own. Without a window only.

        Returns:
            `[batch, length or window, embed]` in the compute dtype.
        """
        return self._forward(tokens, valid, window, groups, segments, keep=False)[0]

    def noisy_hidden(
        self,
        noisy: Int[jax.Array, "batch length"],
        clean: Int[jax.Array, "batch length"],
        valid: Bool[jax.Array, "batch length"],
        segments: Int[jax.Array, "batch length"] | None = None,
    ) -> Float[jax.Array, "batch length embed"]:
        """States of a noisy text of which every block attends itself and the clean blocks before.

        One pass over `[noisy | clean]` (BD3-LM, 2503.09573) computes for all blocks what decoding
        does for one: its own positions are noisy there, and earlier blocks finished. For models of
        block attention whose blocks count from the start of the sequence.

        Args:
            noisy: `[batch, length]`.
            clean: likewise.
            valid: `[batch, length]`, False on padding of both.
            segments: as for `hidden`.

        Returns:
            `[batch, length, embed]` in the compute dtype; the state at i is the one that predicts
            token i.

        Raises:
            ValueError: blocks are not counted from the start of the sequence.
        """
        positions = positions_of(valid, segments)
        groups = attention_groups(self.config, valid, segments)
        assert groups is not None  # the attention is by blocks
        mask = valid if segments is None else segment_mask(segments, valid)
        cos, sin = (jnp.concatenate([angle, angle], axis=1) for angle in self._angles(positions))
        x, _ = stacks.run(
            self,
            self._embed(jnp.concatenate([noisy, clean], axis=1)),
            (cos, sin),
            block_diffusion_mask(groups, mask),
        )
        x, finished = jnp.split(layers.rms_norm(x, self.norm[...], self.config.norm_eps), 2, axis=1)
        if self._shift:
            # When a block is decoded, the position before its first one is finished.
            begins = (groups[:, 1:] != groups[:, :-1])[..., None]
            before = jnp.where(begins, finished[:, :-1], x[:, :-1])
            before = jnp.concatenate([x[:, :1], before], axis=1)
            x = jnp.where((positions == 0)[..., None], x, before)
        return x

    def prefill(
        self,
        tokens: Int[jax.Array, "batch length"],
        valid: Bool[jax.Array, "batch length"],
        window: Window,
        groups: Int[jax.Array, "batch length"] | None = None,
    ) -> tuple[Float[jax.Array, "batch window embed"], KeyValueCache]:
        """As `hidden`, with the keys and values of all positions for `cached_forward`."""
        hidden, cache = self._forward(tokens, valid, window, groups, None, keep=True)
        assert cache is not None
        return hidden, cache

    def cached_forward(
        self,
        tokens: Int[jax.Array, "batch length"],
        valid: Bool[jax.Array, "batch length"],
        window: Window,
        cache: KeyValueCache,
        *,
        suffix: int = 0,
        groups: Int[jax.Array, "batch length"] | None = None,
    ) -> Float[jax.Array, "batch window embed"]:
        """As `hidden` of the window, with other positions' keys and values from a cache.

        Args:
            tokens: as for `hidden`.
            valid: likewise.
            window: the positions wanted.
            cache: of all positions, from `prefill`.
            suffix: static. 0: the window alone is computed (Fast-dLLM's dual cache). Otherwise
                the last `suffix` positions, which must contain the window, are computed, and
                keys and values before the window come from the cache (its prefix cache).
            groups: as for `hidden`.

        Returns:
            `[batch, window, embed]` in the compute dtype.
        """
        length, start = tokens.shape[1], window.start - self._shift
        fresh = Window(start=start, length=window.length + self._shift)
        if suffix:
            fresh = Window(
                start=jnp.full_like(start, length - suffix - self._shift),
                length=suffix + self._shift,
            )
        return self._cached(tokens, valid, window, fresh, start, cache, groups, keep=False)[0]

    def extend(
        self,
        tokens: Int[jax.Array, "batch length"],
        valid: Bool[jax.Array, "batch length"],
        window: Window,
        cache: KeyValueCache,
        groups: Int[jax.Array, "batch length"] | None = None,
    ) -> tuple[Float[jax.Array, "batch window embed"], KeyValueCache]:
        """As `cached_forward`, of a window as long before the window too, which the cache then has.

        Returns:
            States of the window, and the cache with the keys and values of both.
        """
        start = window.start - window.length - self._shift
        fresh = Window(start=start, length=2 * window.length + self._shift)
        hidden, own = self._cached(tokens, valid, window, fresh, start, cache, groups, keep=True)
        assert own is not None
        return hidden, jax.tree.map(fresh.put, cache, like(cache, own))

    def _cached(
        self,
        tokens: jax.Array,
        valid: jax.Array,
        window: Window,
        fresh: Window,
        begin: jax.Array,
        cache: KeyValueCache,
        groups: jax.Array | None,
        *,
        keep: bool,
    ) -> tuple[jax.Array, KeyValueCache | None]:
        """Of `fresh`, with what is before `begin [batch]` and after `fresh` from the cache."""
        position, start = jnp.arange(tokens.shape[1]), fresh.start[:, None]
        renewed = (position >= begin[:, None]) & (position < start + fresh.length)
        attention_mask = jnp.concatenate([valid & ~renewed, fresh.of(valid & renewed)], axis=1)
        groups = attention_groups(self.config, valid) if groups is None else groups
        if groups is not None:
            queries = fresh.of(groups)
            keys = jnp.concatenate([groups, queries], axis=1)
            attention_mask = block_causal_mask(queries, keys, attention_mask)
        cos, sin = self._angles(positions_of(valid))
        wanted = None
        if fresh.length != window.length:
            wanted = Window(start=window.start - self._shift - fresh.start, length=window.length)
        x, own = stacks.run(
            self,
            self._embed(fresh.of(tokens)),
            (fresh.of(cos), fresh.of(sin)),
            attention_mask,
            wanted,
            cache,
            keep=keep,
        )
        return layers.rms_norm(x, self.norm[...], self.config.norm_eps), own

    def logits(self, hidden: Float[jax.Array, "*batch embed"]) -> Float[jax.Array, "*batch vocab"]:
        """Float32 logits `[..., vocab]` of hidden states `[..., embed]`."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        kernel = self.head_kernel
        if isinstance(kernel, QuantizedKernel):
            scores = kernel.product(flat)
        else:
            kernel = kernel.astype(hidden.dtype)
            scores = jnp.dot(flat, kernel, preferred_element_type=jnp.float32)
        return scores.reshape(*hidden.shape[:-1], kernel.shape[-1])

    @property
    def _shift(self) -> int:
        """How many positions before a token the state is that predicts it."""
        return int(self.config.alignment == "shifted")

    def _embed(self, tokens: jax.Array) -> jax.Array:
        return self.embedding[...][tokens].astype(self.execution.dtype)

    def _angles(self, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        config = self.config
        rotary_dim = config.rotary_dim or config.head_dim
        return layers.rotary_angles(positions, rotary_dim, config.rope_theta)

    def _forward(
        self,
        tokens: jax.Array,
        valid: jax.Array,
        window: Window | None,
        groups: jax.Array | None,
        segments: jax.Array | None,
        *,
        keep: bool,
    ) -> tuple[jax.Array, KeyValueCache | None]:
        """Hidden states of the window and, with `keep`, keys and values of all positions."""
        positions = positions_of(valid, segments)
        at_zero = None
        if window is not None and self._shift:
            at_zero = (window.start == 0)[:, None, None]
            window = dataclasses.replace(window, start=jnp.maximum(window.start - 1, 0))
        groups = attention_groups(self.config, valid, segments) if groups is None else groups
        attention_mask = valid if groups is None else block_causal_mask(groups, groups, valid)
        if segments is not None:
            attention_mask = segment_mask(segments, attention_mask)
        x, cache = stacks.run(
            self, self._embed(tokens), self._angles(positions), attention_mask, window, keep=keep
        )
        x = layers.rms_norm(x, self.norm[...], self.config.norm_eps)
        if self._shift:
            # Position 0 has no state before it: published code takes its own.
            moved = jnp.concatenate([x[:, :1], x[:, :-1]], axis=1)
            if segments is not None:
                moved = jnp.where((positions == 0)[..., None], x, moved)
            x = moved if at_zero is None else jnp.where(at_zero, moved, x)
        return x, cache
