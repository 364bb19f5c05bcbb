"""Keys and values kept between passes, so that a pass computes the active block alone.

`none` computes every position in every pass: exact. `dual` and `prefix` (Fast-dLLM, 2505.22618,
section 3.2) keep keys and values outside the block, or before it, as they were when the row entered
the block: an approximation under bidirectional attention, and exact for `prefix` under block-causal
attention. Entering a block, and every `refresh_interval` passes if asked, a row has
all its positions computed; that pass commits tokens like any other.

Rows enter their blocks at passes of their own. Those that do are computed whole a few at a time,
the others need their block only, so no row waits for another's refresh and none is changed by it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cd4lm_jax.decoding import on_mesh
from cd4lm_jax.models.attention import KeyValueCache, KeyValues
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.models.window import Window
from cd4lm_jax.runtime.sharding import constrain

Mode = Literal["none", "prefix", "dual"]


class Inputs(NamedTuple):
    """What the model is given in a pass; B rows of T positions.

    Attributes:
        tokens: `[B, T]` int32.
        valid: `[B, T]` bool, False on padding.
        groups: `[B, T]` int32 for block-causal attention, or None.
    """

    tokens: jax.Array
    valid: jax.Array
    groups: jax.Array | None

    def rows(self, places: jax.Array) -> Inputs:
        """Some of the rows, see `cd4lm_jax.decoding.on_mesh.take`."""
        return jax.tree.map(lambda array: on_mesh.take(array, places), self)


def empty(model: Transformer, rows: int, length: int) -> KeyValueCache:
    """A cache that nothing has been written to."""
    config = model.config
    shape = (config.num_layers, rows, config.num_kv_heads, length, config.head_dim)
    cache = KeyValues(*(jnp.zeros(shape, model.execution.dtype) for _ in range(2)))
    if model.execution.scan_layers:
        return cache
    return [KeyValues(*layer) for layer in zip(*cache, strict=True)]


def predict(
    model: Transformer,
    inputs: Inputs,
    window: Window,
    entering: jax.Array,
    inside: jax.Array,
    cache: KeyValueCache,
    *,
    suffixes: tuple[int, ...],
    refresh_rows: int,
) -> tuple[jax.Array, KeyValueCache]:
    """Logits of the rows' blocks, from the cache where it serves.

    Args:
        model: parameters.
        inputs: tokens of the whole canvas.
        window: the active block of each row.
        entering: `[B]` bool, rows to compute whole and to write to the cache.
        inside: `[B]` bool, rows to compute from the cache. The others' logits have no meaning.
        cache: the cache.
        suffixes: static, falling: lengths of what may be computed of an inside row, from the end
            of the canvas. Empty: its block alone.
        refresh_rows: static, rows that are computed whole at once; on a mesh as many of each part
            of the rows.

    Returns:
        Float32 `[B, block, vocab]` and the cache.
    """
    rows, length = inputs.tokens.shape
    parts = on_mesh.parts_of_rows()

    def refresh(
        carry: tuple[jax.Array, KeyValueCache, jax.Array],
    ) -> tuple[jax.Array, KeyValueCache, jax.Array]:
        # XLA would move what does not change out of the loop, to be computed where no row enters:
        # the weights of each layer, and with a single row the whole forward pass.
        weights, (logits, cache, entering) = lax.optimization_barrier((model, carry))
        # Each part of the rows chooses among its own, so that no row moves between devices.
        waiting = entering.reshape(parts, -1)
        chosen = jnp.argsort(~waiting, axis=1, stable=True)[:, : -(-refresh_rows // parts)]
        enters = jnp.take_along_axis(waiting, chosen, axis=1)
        place = jnp.where(enters, chosen, rows)  # past the end: written nowhere
        some = inputs.rows(chosen)
        part = Window(start=on_mesh.take(window.start, chosen), length=window.length)
        hidden, own = weights.prefill(some.tokens, some.valid, part, some.groups)
        cache = jax.tree.map(
            lambda kept, new: on_mesh.cached(on_mesh.put(kept, place, new, axis=kept.ndim - 4)),
            cache,
            own,
        )
        logits = on_mesh.put(logits, place, weights.logits(hidden))
        return logits, cache, on_mesh.put(entering, place, jnp.zeros(chosen.size, bool))

    def reuse(suffix: int, logits: jax.Array) -> jax.Array:
        hidden = model.cached_forward(
            inputs.tokens, inputs.valid, window, cache, suffix=suffix, groups=inputs.groups
        )
        return jnp.where(inside[:, None, None], model.logits(hidden), logits)

    logits = jnp.zeros((rows, window.length, model.config.vocab_size), jnp.float32)
    logits = constrain(logits, ("batch", None, "vocab"))
    logits, cache, _ = lax.while_loop(
        lambda carry: carry[2].any(), refresh, (logits, cache, entering)
    )
    choices = [lambda logits, suffix=suffix: reuse(suffix, logits) for suffix in suffixes or (0,)]
    # The shortest suffix that holds the blocks of all rows inside.
    need = length - jnp.where(inside, window.start, length).min()
    which = (jnp.array(suffixes, jnp.int32) >= need).sum() - 1 if suffixes else 0
    which = jnp.where(inside.any(), which, len(choices))
    return lax.switch(which, [*choices, lambda logits: logits], logits), cache


def suffix_lengths(num_blocks: int, block_length: int) -> tuple[int, ...]:
    """The whole generation, and halves of it down to a block: what `prefix` compiles for."""
    blocks = [num_blocks]
    while blocks[-1] > 1:
        blocks.append(-(-blocks[-1] // 2))
    return tuple(count * block_length for count in blocks)
