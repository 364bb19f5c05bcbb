"""What a decoder would commit in some positions: the best token and its probability."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from cd4lm_jax.distillation import projection
from cd4lm_jax.distillation.projection import HiddenStates


class Proposals(NamedTuple):
    """What a decoder would commit, and its confidence.

    Attributes:
        token: `[tokens]` int32, the best.
        confidence: `[tokens]` float32, its probability; 0 in positions that were not wanted.
    """

    token: jax.Array
    confidence: jax.Array


def proposals(states: HiddenStates, wanted: jax.Array, mask_id: int) -> Proposals:
    """The best token of the wanted positions, never the mask; in chunks, as the loss.

    Args:
        states: of a model.
        wanted: `[tokens]` bool.
        mask_id: the model's mask token.
    """
    axes = projection.position_axes(wanted.shape[0])
    run = functools.partial(_of_own_positions, axes, mask_id)
    if axes:
        own, same = PartitionSpec(axes), PartitionSpec()
        given: Any = (HiddenStates(own, same), own)  # type: ignore[arg-type]
        run = jax.shard_map(
            run, in_specs=given, out_specs=own, axis_names=set(axes), check_vma=False
        )
    return run(projection.gathered_kernel(states), wanted)


def _of_own_positions(
    axes: tuple[str, ...], mask_id: int, states: HiddenStates, wanted: jax.Array
) -> Proposals:
    """Loops over chunks of a device's wanted positions."""
    width, vocab = states.kernel.shape
    chunk = projection.chunk_size(wanted.shape[0], width, vocab)
    order, chunks = projection.in_chunks(wanted, chunk, axes)
    ids = jnp.arange(vocab, dtype=jnp.int32)

    def body(i: jax.Array, found: Proposals) -> Proposals:
        rows = lax.dynamic_slice_in_dim(order, i * chunk, chunk)
        logits = jnp.where(ids == mask_id, -jnp.inf, projection.project(states, rows)[1])
        most = logits.max(axis=1, keepdims=True)
        # Compared, as the loss does: an argmax would gather a vocabulary that is sharded.
        best = Proposals(
            token=jnp.where(logits == most, ids, vocab).min(axis=1),
            confidence=jnp.exp(most[:, 0] - jax.nn.logsumexp(logits, axis=1)),
        )
        return jax.tree.map(
            lambda all_rows, these: all_rows.at[rows].set(these, mode="drop", unique_indices=True),
            found,
            best,
        )

    nothing = Proposals(jnp.zeros(wanted.shape, jnp.int32), jnp.zeros(wanted.shape, jnp.float32))
    found = lax.fori_loop(0, chunks, body, nothing)
    # The last chunk may hold positions that were not wanted.
    return jax.tree.map(lambda array: jnp.where(wanted, array, 0), found)
