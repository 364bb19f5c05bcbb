"""Keys and values kept between passes, so that a pass computes the active block alone.

`none` computes every position in every pass: exact. `dual` and `prefix` (Fast-dLLM, 2505.22618,
section 3.2) keep keys and values outside the block, or before it, as they were when the row entered
the block: an approximation under bidirectional attention. Entering a block, and every
`refresh_interval` passes if asked, a row has all its positions computed; that pass commits tokens
like any other.

Under block-causal attention nothing that follows a block bears on it, so `prefix` is exact: all
positions are computed in a row's first pass, and then every finished block once, in the pass that
enters the next.

Rows enter their blocks at passes of their own. Those that do are computed whole a few at a time,
the others need their block only, so no row waits for another's refresh and none is changed by it.

What is kept may be rounded to int8 (see `cd4lm_jax.models.attention.RoundedHeads`). Keys and values
of a pass itself are not: a pass that computes a row whole gives the same logits either way.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cd4lm_jax.decoding import on_mesh
from cd4lm_jax.models import stacks
from cd4lm_jax.models.attention import KeyValueCache, KeyValues, like, rounded
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.models.window import Window
from cd4lm_jax.runtime.sharding import constrain

Mode = Literal["none", "prefix", "dual"]
Dtype = Literal["model", "int8"]


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


def empty(model: Transformer, rows: int, length: int, dtype: Dtype) -> KeyValueCache:
    """A cache that nothing has been written to, of rows of so many positions."""
    config = model.config
    shape = (config.num_layers, rows, config.num_kv_heads, length, config.head_dim)
    cache = KeyValues(*(jnp.zeros(shape, model.execution.dtype) for _ in range(2)))
    if dtype == "int8":
        cache = rounded(cache)
    if model.execution.scan_layers:
        return cache
    return [stacks.layer(cache, index) for index in range(config.num_layers)]


class Rows(NamedTuple):
    """What is to be computed of each row, `[B]` bool each; the others' logits have no meaning.

    Attributes:
        entering: all positions, which are then written to the cache.
        following: the window, and as much before it, which has become final, to be written.
        inside: from the cache.
    """

    entering: jax.Array
    following: jax.Array
    inside: jax.Array


def predict(
    model: Transformer,
    inputs: Inputs,
    window: Window,
    rows: Rows,
    cache: KeyValueCache,
    *,
    suffixes: tuple[int, ...],
    refresh_rows: int,
    exact: bool = False,
) -> tuple[jax.Array, KeyValueCache]:
    """Logits of the rows' blocks, from the cache where it serves.

    Args:
        model: parameters.
        inputs: tokens of the whole canvas.
        window: the active block of each row.
        rows: what to compute of each.
        cache: the cache.
        suffixes: static, falling: lengths of what may be computed of an inside row, from the end
            of the canvas. Empty: its block alone.
        refresh_rows: static, rows that are computed whole, or followed on, at once; on a mesh as
            many of each part of the rows.
        exact: static; whether rows follow on.

    Returns:
        Float32 `[B, block, vocab]` and the cache.
    """
    count, length = inputs.tokens.shape
    parts = on_mesh.parts_of_rows()
    Carry = tuple[jax.Array, KeyValueCache, jax.Array]

    def compute(whole: bool, carry: Carry) -> Carry:
        # XLA would move what does not change out of the loop, to be computed where no row enters:
        # the weights of each layer, and with a single row the whole forward pass.
        weights, (logits, cache, entering) = lax.optimization_barrier((model, carry))
        # Each part of the rows chooses among its own, so that no row moves between devices.
        waiting = entering.reshape(parts, -1)
        chosen = jnp.argsort(~waiting, axis=1, stable=True)[:, : -(-refresh_rows // parts)]
        enters = jnp.take_along_axis(waiting, chosen, axis=1)
        place = jnp.where(enters, chosen, count)  # past the end: written nowhere
        some = inputs.rows(chosen)
        part = Window(start=on_mesh.take(window.start, chosen), length=window.length)
        if whole:
            hidden, own = weights.prefill(some.tokens, some.valid, part, some.groups)
            own = like(cache, own)
        else:
            kept = jax.tree.map(lambda leaf: on_mesh.take(leaf, chosen, leaf.ndim - 4), cache)
            hidden, own = weights.extend(some.tokens, some.valid, part, kept, some.groups)
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
        return jnp.where(rows.inside[:, None, None], model.logits(hidden), logits)

    logits = jnp.zeros((count, window.length, model.config.vocab_size), jnp.float32)
    logits = constrain(logits, ("batch", None, "vocab"))
    for whole, wanted in [(True, rows.entering), (False, rows.following)][: 2 if exact else 1]:
        logits, cache, _ = lax.while_loop(
            lambda carry: carry[2].any(),
            functools.partial(compute, whole),
            (logits, cache, wanted),
        )
    choices = [lambda logits, suffix=suffix: reuse(suffix, logits) for suffix in suffixes or (0,)]
    # The shortest suffix that holds the blocks of all rows inside.
    need = length - jnp.where(rows.inside, window.start, length).min()
    which = (jnp.array(suffixes, jnp.int32) >= need).sum() - 1 if suffixes else 0
    which = jnp.where(rows.inside.any(), which, len(choices))
    return lax.switch(which, [*choices, lambda logits: logits], logits), cache


def suffix_lengths(num_blocks: int, block_length: int, least: int = 1) -> tuple[int, ...]:
    """The whole generation, and halves of it down to `least` blocks: what `prefix` compiles for."""
    blocks = [num_blocks]
    while blocks[-1] > least:
        blocks.append(max(-(-blocks[-1] // 2), least))
    return tuple(count * block_length for count in blocks)
