"""Parameters that are not finite numbers: an infinite or undefined logit decodes to nonsense."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.runtime.trees import named_leaves


def check_finite(model: Transformer, where: str) -> None:
    """Raises ValueError, naming the first parameter with NaN or infinite numbers.

    Args:
        model: its parameters are read once, on the device.
        where: the folder they come from, for the message.
    """
    leaves = named_leaves(model)
    for name, count in _count(leaves).items():
        if int(count):
            raise ValueError(
                f"{where}: {name} has {int(count):,} numbers that are not finite in "
                f"{leaves[name].dtype}; the model is damaged or its training diverged (use an "
                "earlier checkpoint), or the dtype is too narrow (use bfloat16 or float32)"
            )


@jax.jit
def _count(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: jnp.sum(~jnp.isfinite(leaf), dtype=jnp.int32) for name, leaf in leaves.items()}
