"""The logits of a pass: the model on the canvas, guided if asked, with or without a cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cd4lm_jax.decoding import cache as caches
from cd4lm_jax.decoding.canvas import Canvas
from cd4lm_jax.decoding.program import Limits, Shape
from cd4lm_jax.models.attention import KeyValueCache, positions_of
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.models.window import Window
from cd4lm_jax.runtime.sharding import constrain


def logits(
    model: Transformer,
    canvas: Canvas,
    valid: jax.Array,
    window: Window,
    limits: Limits,
    shape: Shape,
    cache: KeyValueCache | None,
) -> tuple[jax.Array, KeyValueCache | None]:
    """Float32 `[batch, window, vocab]`, guided if asked, and the cache."""
    tokens, entering = canvas.tokens, canvas.step == 0
    interval = jnp.asarray(limits.refresh_interval)
    if not shape.exact:  # else a refresh would change nothing
        entering |= (interval > 0) & (canvas.step % jnp.maximum(interval, 1) == 0)
    entering, inside = entering & ~canvas.done, ~entering & ~canvas.done
    # Blocks that were open in the pass before are all that has become final since.
    following = entering & (canvas.nfe > 0)
    following &= canvas.block - canvas.before <= shape.lookahead
    following &= shape.exact
    place = jnp.arange(valid.shape[1]) - (valid.shape[1] - shape.gen_length)
    if shape.guided:
        # LLaDA's guidance: the same canvas with its prompt masked is the unconditional input.
        unconditional = jnp.where(place < 0, model.config.mask_id, tokens)
        # Side by side, so that both inputs of a row are in one part of a mesh.
        tokens = jnp.stack([tokens, unconditional], axis=1).reshape(-1, tokens.shape[1])
        valid, entering, inside, following, start = (
            jnp.repeat(array, 2, axis=0)
            for array in (valid, entering, inside, following, window.start)
        )
        window = Window(start=start, length=window.length)
    groups = None
    if shape.block_causal and shape.blocks == "sequence":
        groups = positions_of(valid) // shape.block_length
    elif shape.block_causal:
        groups = jnp.broadcast_to(jnp.maximum(place // shape.block_length, -1), tokens.shape)
    inputs = caches.Inputs(tokens, valid, groups)
    if cache is None:
        scores = constrain(model(tokens, valid, window, groups), ("batch", None, "vocab"))
    else:
        scores, cache = caches.predict(
            model,
            inputs,
            window,
            caches.Rows(entering & ~following, following, inside),
            cache,
            suffixes=shape.suffixes,
            refresh_rows=min(shape.refresh_rows, len(tokens)),
            exact=shape.exact,
        )
    if shape.guided:
        pairs = scores.reshape(-1, 2, *scores.shape[1:])
        with_prompt, without = pairs[:, 0], pairs[:, 1]
        scores = without + (limits.cfg_scale + 1.0) * (with_prompt - without)
    return scores, cache
