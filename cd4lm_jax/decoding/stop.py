"""When a row is finished, and what follows its end."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def is_any_of(tokens: jax.Array, ids: tuple[int, ...]) -> jax.Array:
    """Where ``tokens`` is one of ``ids``; bool of the same shape."""
    found = jnp.zeros(tokens.shape, bool)
    for token in ids:
        found |= tokens == token
    return found


def ended(generated: jax.Array, masked: jax.Array, end_ids: tuple[int, ...]) -> jax.Array:
    """Rows in which an end token is committed and so is everything before it.

    Args:
        generated: ``[batch, gen]`` tokens of the generation region.
        masked: ``[batch, gen]`` positions not yet committed.
        end_ids: EOS and EOT.

    Returns:
        ``[batch]`` bool.
    """
    known = jnp.cumsum(masked, axis=1) == 0
    return (known & is_any_of(generated, end_ids)).any(axis=1)


def answer_length(generated: jax.Array, end_ids: tuple[int, ...]) -> jax.Array:
    """``[batch]`` int32: tokens before the first end token, all of them where there is none."""
    return (jnp.cumsum(is_any_of(generated, end_ids), axis=1) == 0).sum(axis=1)
