"""Parameters that are not finite numbers: an infinite or undefined logit decodes to nonsense."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.runtime.trees import named_leaves

_LARGE_BYTES = 1 << 26


def check_finite(model: Transformer, where: str) -> None:
    """Raises ValueError, naming the first parameter with NaN or infinite numbers.

    Args:
        model: its parameters are read once, on the device.
        where: the folder they come from, for the message.
    """
    leaves = named_leaves(model)
    for name, largest in _all_largest(leaves).items():
        leaf = leaves[name]
        if largest > _largest_finite(leaf.dtype):
            count = int(_count(leaf))
            raise ValueError(
                f"{where}: {name} has {count:,} numbers that are not finite in {leaf.dtype}; the "
                "model is damaged or its training diverged (use an earlier checkpoint), or the "
                "dtype is too narrow (use bfloat16 or float32)"
            )


def _all_largest(leaves: dict[str, jax.Array]) -> dict[str, int]:
    """The largest magnitude of each parameter that is no integer.

    A program holds copies of what it is given, so it is given a layer of a large parameter.
    """
    small: dict[str, jax.Array] = {}
    found: dict[str, int] = {}
    for name, leaf in leaves.items():
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            continue
        if leaf.nbytes < _LARGE_BYTES:
            small[name] = leaf
        else:
            found[name] = max(int(_largest(part)) for part in _parts(leaf))
    return found | {name: int(value) for name, value in _largest_of_each(small).items()}


def _parts(leaf: jax.Array) -> Iterator[jax.Array]:
    if leaf.ndim < 3:
        yield leaf
        return
    for at in range(len(leaf)):  # iterating over an array would make all its layers at once
        yield leaf[at]


def _magnitude(leaf: jax.Array) -> jax.Array:
    """The bits of numbers without their sign.

    They rise with the magnitude, and infinity and NaN come after the largest number. `isfinite`
    would hold all of a bfloat16 model in float32 on a CPU.
    """
    bits = lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
    return bits & np.array(np.iinfo(bits.dtype).max >> 1, bits.dtype)


def _largest_finite(dtype: np.dtype) -> int:
    """The bits of the largest number of a dtype."""
    largest = np.array(jnp.finfo(dtype).max, dtype)
    return int(largest.view(f"uint{8 * largest.dtype.itemsize}"))


@jax.jit
def _largest(leaf: jax.Array) -> jax.Array:
    return jnp.max(_magnitude(leaf))


@jax.jit
def _largest_of_each(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: _largest(leaf) for name, leaf in leaves.items()}


@jax.jit
def _count(leaf: jax.Array) -> jax.Array:
    return jnp.sum(_magnitude(leaf) > _largest_finite(leaf.dtype), dtype=jnp.int32)
