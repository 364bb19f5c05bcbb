"""Writes a model to a Hugging Face folder, a shard at a time."""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from cd4lm_jax.checkpoints import (
    huggingface,
    manifest,
    model_folder,
    published_tensors,
    side_files,
    weight_files,
)
from cd4lm_jax.checkpoints.chunks import TreeReader, ahead
from cd4lm_jax.checkpoints.conversion_source import ConversionError, begun, checked_params
from cd4lm_jax.checkpoints.families import family_for
from cd4lm_jax.checkpoints.huggingface import Checkpoint
from cd4lm_jax.checkpoints.published_tensors import Tensor
from cd4lm_jax.checkpoints.safetensors_files import DTYPES, write_file
from cd4lm_jax.runtime import files
from cd4lm_jax.runtime.progress import Progress

_GENERATION_FILE = "generation_config.json"


class ToHuggingFace:
    """From orbax to safetensors."""

    def __init__(
        self, source: pathlib.Path, dtype: str | None, shard_bytes: int, verify: bool
    ) -> None:
        self.config = model_folder.read_config(source)
        self._family = family_for(self.config)
        self._source = source
        self._params, saved = checked_params(source, self.config, verify)
        self._dtype = np.dtype(dtype or saved)
        if self._dtype not in DTYPES.values():
            raise ConversionError(
                f"{source}: parameters are {self._dtype}; expected one of {', '.join(DTYPES)}, or "
                "give the dtype to store them in"
            )
        self.tensors = published_tensors.all_tensors(self._family, self.config)
        self._shard_bytes = shard_bytes
        inputs = {
            source / model_folder.CONFIG_FILE,
            *filter(pathlib.Path.is_file, self._params.rglob("*")),
        }
        self.begun = begun(source, inputs, dtype=str(self._dtype), shard_bytes=shard_bytes)

    def write(self, folder: pathlib.Path, progress: Progress) -> None:
        """Writes the files that are not there yet, then what describes them."""
        shards = self._shards()
        reader = TreeReader(self._params)
        placed: dict[str, str] = {}
        done = 0
        for number, shard in enumerate(shards, start=1):
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
            if not (folder / name).exists():
                with files.atomic_path(folder / name) as temporary:
                    shapes = {tensor.name: tensor.whole_shape for tensor in shard}
                    chunks = self._chunks(shard, reader, progress, done)
                    write_file(temporary, shapes, self._dtype, chunks)
            placed |= {tensor.name: name for tensor in shard}
            done += len(shard)
            progress.update(done)
        total = sum(map(self._bytes, self.tensors))
        digests = manifest.digests(folder, set(placed.values()))
        metadata = {"total_size": total, weight_files.DIGESTS: digests}
        index = {"metadata": metadata, "weight_map": placed}
        for name, value in (
            (weight_files.INDEX_FILE, index),
            (huggingface.CONFIG_FILE, self._described()),
            (_GENERATION_FILE, self._family.generation(self.config)),
        ):
            text = json.dumps(value, indent=2, sort_keys=True) + "\n"
            files.write_text(folder / name, text)
        Checkpoint.open(folder, verify=False)
        side_files.copy(self._source, folder)

    def _described(self) -> dict[str, Any]:
        """The `config.json`; code that the source lacks is not named, transformers would fail."""
        described = self._family.describe(self.config, str(self._dtype))
        missing = side_files.missing_code(described, self._source)
        if missing:
            del described["auto_map"]
            logging.getLogger(__name__).warning(
                "warning: %s has no modelling code (%s), so the new folder has none and its "
                "config.json no auto_map; copy the files and the field from the published model "
                "to load it with transformers",
                self._source,
                ", ".join(missing),
            )
        return described

    def _chunks(
        self, shard: list[Tensor], reader: TreeReader, progress: Progress, done: int
    ) -> Iterator[np.ndarray]:
        parts = [(tensor, rows) for tensor in shard for rows in tensor.chunks()]
        read = ahead(reader.read(tensor.leaf, tensor.place(rows)) for tensor, rows in parts)
        for (tensor, rows), chunk in zip(parts, read, strict=True):
            yield tensor.turned(chunk, self._dtype)
            done += rows.stop == tensor.shape[0]
            progress.update(done)

    def _shards(self) -> list[list[Tensor]]:
        """The tensors of each file."""
        shards: list[list[Tensor]] = [[]]
        size = 0
        for tensor in self.tensors:
            whole = not tensor.first_row  # a tensor's parts stay together
            if shards[-1] and whole and size + self._bytes(tensor) > self._shard_bytes:
                shards.append([])
                size = 0
            shards[-1].append(tensor)
            size += self._bytes(tensor)
        return shards

    def _bytes(self, tensor: Tensor) -> int:
        return int(np.prod(tensor.shape)) * self._dtype.itemsize
