"""Sums by which what is read is compared with what was saved, and models with one another."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils

from cd4lm_jax.runtime.trees import named_leaves

_CHUNK_BYTES = 1 << 26


def of_json(value: Any) -> int:
    """32-bit sum of a JSON value, however its keys are ordered."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def of_arrays(tree: Any) -> dict[str, int]:
    """32-bit sum of each array of a tree by name, computed on the devices.

    The sum is the same on any mesh, and another one if a single element differs.
    """
    return {name: int(value) for name, value in _sums(named_leaves(tree)).items()}


def fingerprint(description: Any, tree: Any) -> str:
    """SHA-256, in hexadecimal, of a JSON value and of all arrays of a tree.

    It is the same on any mesh. Two trees have the same one only if names, shapes, dtypes and all
    bits are equal. The arrays pass through the host's memory a chunk at a time; on several hosts
    all of them call this.
    """
    leaves = sorted(named_leaves(tree).items())
    whole = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    # Hashing releases the interpreter, so arrays are hashed side by side. A transfer between
    # hosts must happen in the same order on each of them.
    workers = 1 if jax.process_count() > 1 else os.cpu_count()
    with concurrent.futures.ThreadPoolExecutor(workers) as threads:
        digests = threads.map(_digest, [leaf for _, leaf in leaves])
        for (name, leaf), digest in zip(leaves, digests, strict=True):
            whole.update(f"{name} {leaf.dtype} {leaf.shape} {digest}\n".encode())
    return whole.hexdigest()


def _digest(leaf: jax.Array) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(leaf):
        digest.update(np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _chunks(leaf: jax.Array) -> Iterator[np.ndarray]:
    """The array on the host, a run of rows of its first axis at a time."""
    if leaf.ndim == 0:
        yield _on_host(leaf)
        return
    rows = max(1, _CHUNK_BYTES * len(leaf) // max(1, leaf.nbytes))
    for start in range(0, len(leaf), rows):
        yield _on_host(leaf[start : start + rows])


def _on_host(array: jax.Array) -> np.ndarray:
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


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
