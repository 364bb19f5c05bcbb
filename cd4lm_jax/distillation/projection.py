"""The vocabulary projection of chosen positions, a chunk at a time, on any mesh.

The logits of a whole batch never exist: 16,384 positions of a vocabulary of 126,464 would take
8 GiB in float32. Callers loop over chunks of the positions that they need.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cd4lm_jax.corruption.views import Batch, masked_tokens
from cd4lm_jax.models.quantization import QuantizedKernel
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.runtime.sharding import constrain, spec

MAX_CHUNK = 1024
"""Positions projected at once, at most: enough for a full-rate matmul."""


class HiddenStates(NamedTuple):
    """What logits are made of: `hidden @ kernel`.

    Attributes:
        hidden: `[tokens, embed]`, the model's final hidden states, normalised.
        kernel: `[embed, vocab]`, its vocabulary projection.
    """

    hidden: jax.Array
    kernel: jax.Array


def hidden_states(
    model: Transformer, batch: Batch, tokens: jax.Array, masked: jax.Array
) -> HiddenStates:
    """A forward pass up to the vocabulary projection.

    A model of block attention has, beside each noisy block, the finished ones before it, as when
    it decodes (BD3-LM, 2503.09573); any other one has the noisy text alone.

    Args:
        model: student or teacher.
        batch: gives `valid` `[batch, length]`, and which rows share a canvas.
        tokens: `[batch, length]` int32.
        masked: `[batch, length]` bool, positions shown as the mask token.

    Returns:
        Hidden states of all `canvases * length` positions, see `Batch.on_canvas`.
    """
    noisy = batch.on_canvas(masked_tokens(tokens, masked, model.config.mask_id))
    valid, segments = batch.on_canvas(batch.valid), batch.segments
    if model.config.attention == "block":
        hidden = model.noisy_hidden(noisy, batch.on_canvas(tokens), valid, segments=segments)
    else:
        hidden = model.hidden(noisy, valid, segments=segments)
    return with_kernel(model, hidden)


def with_kernel(model: Transformer, hidden: jax.Array) -> HiddenStates:
    """Hidden states `[batch, length, embed]` of a model with its vocabulary projection."""
    kernel = model.head_kernel
    if isinstance(kernel, QuantizedKernel):  # all chunks use one copy, as they do of a cast one
        kernel = kernel.dequantized(hidden.dtype)
    return HiddenStates(hidden.reshape(-1, hidden.shape[-1]), kernel)


def chunk_size(tokens: int, width: int, vocab: int) -> int:
    """The number of positions projected at once.

    Few, where a chunk's logits would be large (128 MiB in float32); but no fewer than half the
    width, for each chunk costs a pass over the kernel's gradient, which is larger then.

    Args:
        tokens: positions in all.
        width: of the hidden states.
        vocab: size of the vocabulary.
    """
    rows = max(width // 2, 2**25 // vocab) // 128 * 128
    return min(max(rows, 128), MAX_CHUNK, tokens)


def position_axes(tokens: int) -> tuple[str, ...]:
    """The mesh axes that this number of positions is split over; none without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    (names,) = spec(("batch",))
    axes = tuple(name for name in names if mesh.shape.get(name, 1) > 1)
    devices = math.prod(mesh.shape[name] for name in axes)
    return axes if tokens % devices == 0 else ()


def gathered_kernel(states: HiddenStates) -> HiddenStates:
    """The kernel in the compute dtype, gathered over the axis that splits its width."""
    kernel = states.kernel.astype(states.hidden.dtype)
    return HiddenStates(states.hidden, constrain(kernel, (None, "vocab")))


def in_chunks(wanted: jax.Array, chunk: int, axes: tuple[str, ...]) -> tuple[jax.Array, jax.Array]:
    """The wanted positions first, in whole chunks.

    Args:
        wanted: `[tokens]` bool.
        chunk: positions of a chunk.
        axes: mesh axes that split the positions.

    Returns:
        Indices `[chunks * chunk]` int32, and the number of chunks that hold a wanted position. An
        index past the end stands for no position: it reads as zero and is never written.
    """
    tokens = wanted.shape[0]
    order = jnp.argsort(~wanted, stable=True)
    order = jnp.pad(order, (0, -tokens % chunk), constant_values=tokens)
    chunks = -(-wanted.sum() // chunk)
    if axes:  # devices that share a chunk's vocabulary communicate, so all loop as often
        chunks = lax.pmax(chunks, axes)
    return order, chunks


def project(states: HiddenStates, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The positions `rows` `[chunk]`.

    Returns:
        Their hidden states `[chunk, embed]`, and logits `[chunk, vocab]` float32.
    """
    hidden = states.hidden.at[rows].get(mode="fill", fill_value=0)
    logits = jnp.dot(hidden, states.kernel, preferred_element_type=jnp.float32)
    return hidden, constrain(logits, (None, "vocab"))
