"""Published checkpoints of any size with random weights."""

from __future__ import annotations

import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from cd4lm_jax.checkpoints.families import LLADA
from cd4lm_jax.checkpoints.huggingface import CONFIG_FILE
from cd4lm_jax.checkpoints.published_tensors import Tensor, all_tensors
from cd4lm_jax.checkpoints.safetensors_files import write_file
from cd4lm_jax.checkpoints.weight_files import INDEX_FILE
from cd4lm_jax.models.config import ModelConfig

SHARDS = 6
DTYPE = np.dtype(ml_dtypes.bfloat16)


def numbers(tensor: Tensor, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Random finite values, `[rows, ...]` at a time."""
    for rows in tensor.chunks():
        shape = (rows.stop - rows.start, *tensor.shape[1:])
        bits = rng.integers(0, 1 << 16, shape, np.uint16)
        # Any sign and fraction, magnitudes from 2**-15 to 2**-7.
        yield ((bits & 0x83FF) | 0x3800).view(DTYPE)


def synthesize(folder: pathlib.Path, config: ModelConfig) -> dict[str, str]:
    """Writes a checkpoint of random weights; returns each tensor's digest."""
    folder.mkdir(parents=True)
    (folder / CONFIG_FILE).write_text(json.dumps(LLADA.describe(config, "bfloat16")))
    tensors = all_tensors(LLADA, config)
    digests: dict[str, str] = {}
    rng = np.random.default_rng(0)

    def recorded(shard: list[Tensor]) -> Iterator[np.ndarray]:
        for tensor in shard:
            seen = hashlib.blake2b()
            for chunk in numbers(tensor, rng):
                seen.update(chunk.view(np.uint8).data)
                yield chunk
            digests[tensor.name] = seen.hexdigest()

    ends = np.cumsum([np.prod(tensor.shape) for tensor in tensors])
    shard_of = [int(end * SHARDS / (ends[-1] + 1)) for end in ends]
    placed: dict[str, str] = {}
    for number, pairs in itertools.groupby(zip(shard_of, tensors, strict=True), lambda p: p[0]):
        shard = [tensor for _, tensor in pairs]
        name = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        shapes = {tensor.name: tensor.shape for tensor in shard}
        write_file(folder / name, shapes, DTYPE, recorded(shard))
        placed |= {tensor.name: name for tensor in shard}
    index = {"metadata": {"total_size": int(ends[-1]) * 2}, "weight_map": placed}
    (folder / INDEX_FILE).write_text(json.dumps(index))
    return digests
