"""Sums that tell whether what is read is what was saved."""

from __future__ import annotations

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cd4lm_jax.runtime.trees import named_leaves


def of_json(value: Any) -> int:
    """Of a JSON value, however its keys are ordered."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def of_arrays(tree: Any) -> dict[str, int]:
    """Of each array of a tree by name: the same on any mesh, another one if any bit differs."""
    return {name: int(value) for name, value in _sums(named_leaves(tree)).items()}


@jax.jit
def _sums(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    def checksum(leaf: jax.Array) -> jax.Array:
        if leaf.dtype == jnp.bool_:
            leaf = leaf.astype(jnp.uint8)
        bits = lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}").astype(jnp.uint32)
        place = jnp.zeros(leaf.shape, jnp.uint32)
        for axis, size in enumerate(leaf.shape):
            place = place * jnp.uint32(size) + lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        # Modulo 2^32: an odd factor never makes a single difference vanish.
        return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)

    return {name: checksum(jnp.asarray(leaf)) for name, leaf in leaves.items()}
