"""Writes a model to a folder of this project, a chunk of one tensor at a time."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cd4lm_jax.checkpoints import (
    array_trees,
    gguf_files,
    gguf_tokenizer,
    huggingface,
    mask_token,
    model_folder,
    published_tensors,
    side_files,
)
from cd4lm_jax.checkpoints.chunks import Chunked, Index, TreeReader, TreeWriter
from cd4lm_jax.checkpoints.conversion_source import begun, checked_params, leaves
from cd4lm_jax.checkpoints.diffusion import Diffusion
from cd4lm_jax.checkpoints.families import family_for
from cd4lm_jax.checkpoints.huggingface import Checkpoint
from cd4lm_jax.checkpoints.published_tensors import Tensor
from cd4lm_jax.models import quantization
from cd4lm_jax.models.config import NO_MASK
from cd4lm_jax.models.quantization import Mode
from cd4lm_jax.runtime import files
from cd4lm_jax.runtime.progress import Progress
from cd4lm_jax.settings.config import config_to_json


class ToOwn:
    """To orbax: from safetensors or a GGUF file, or from orbax to quantise its kernels."""

    def __init__(
        self,
        source: pathlib.Path,
        dtype: str | None,
        quantize: Mode,
        diffusion: Diffusion | None,
        verify: bool,
    ) -> None:
        self._source, self._packed = source, gguf_files.is_gguf(source)
        self._quantize, self._adds_mask = quantize, False
        base = source
        settings: dict[str, Any] = {"quantize": quantize}
        if self._packed or huggingface.is_checkpoint(source):
            if self._packed:
                found, inputs, base = gguf_files.open_checkpoint(source), {source}, source.parent
                self._tokenizer = gguf_tokenizer.texts(source)
            else:
                found = Checkpoint.open(source, verify=verify)
                inputs = {source / huggingface.CONFIG_FILE, *found.files}
            if diffusion is not None:
                self._adds_mask = found.config.mask_id == NO_MASK
                settings |= {"diffusion": dataclasses.asdict(diffusion)}
                known = None if self._packed else mask_token.id_for(source)
                found = diffusion.convert(
                    found, found.config.vocab_size if known is None else known
                )
            self.config, self.tensors, self._stored = found.config, found.tensors, found.stored
            saved = found.dtype() if dtype is None else dtype
            self._read = self._published
        else:
            self.config = model_folder.read_config(source)
            self.tensors = published_tensors.all_tensors(family_for(self.config), self.config)
            params, saved = checked_params(source, self.config, verify)
            self._reader = TreeReader(params)
            inputs = {
                source / model_folder.CONFIG_FILE,
                *filter(pathlib.Path.is_file, params.rglob("*")),
            }
            self._read = self._own
        self._dtype = np.dtype(dtype or saved)
        self.begun = begun(base, inputs, dtype=str(self._dtype), **settings)

    def write(self, folder: pathlib.Path, progress: Progress) -> None:
        """Writes the parameters of the model that are not there yet, then its config."""
        shapes = leaves(self.config, str(self._dtype), self._quantize)
        arrays = {
            part: Chunked(shape=shapes[part].shape, dtype=str(shapes[part].dtype), chunk=chunk)
            for tensor in self.tensors
            for part, chunk in self._chunks(tensor, shapes).items()
        }
        writer = TreeWriter(folder / model_folder.PARAMS_FOLDER, arrays)
        for number, tensor in enumerate(self.tensors, start=1):
            parts = self._chunks(tensor, shapes)
            for rows in tensor.chunks():
                places = {part: self._place(tensor, rows, shapes[part].shape) for part in parts}
                if all(writer.holds(part, place) for part, place in places.items()):
                    continue
                for part, values in self._values(tensor, self._read(tensor, rows)).items():
                    writer.write(part, places[part], values)
            progress.update(number)
        writer.close()
        array_trees.check_tree(folder / model_folder.PARAMS_FOLDER, shapes)
        files.write_text(folder / model_folder.CONFIG_FILE, config_to_json(self.config))
        if self._packed:
            for name, text in self._tokenizer.items():
                files.write_text(folder / name, text)
        else:
            side_files.copy(self._source, folder)
        if self._adds_mask:
            mask_token.add(folder, self.config.mask_id)

    def _published(self, tensor: Tensor, rows: slice) -> np.ndarray:
        chunk = tensor.read(self._stored[tensor.name], rows.start, rows.stop)
        return tensor.turned(chunk, self._dtype)

    def _own(self, tensor: Tensor, rows: slice) -> np.ndarray:
        return self._reader.read(tensor.leaf, tensor.place(rows)).astype(self._dtype, copy=False)

    def _quantized(self, tensor: Tensor) -> bool:
        return self._quantize != "none" and quantization.is_quantized(tensor.leaf)

    def _chunks(self, tensor: Tensor, shapes: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Our arrays that a tensor is written to, and the shapes of their chunks."""
        chunk = tensor.chunk_shape
        if not self._quantized(tensor):
            return {tensor.leaf: chunk}
        parts = (f"{tensor.leaf}{part}" for part in quantization.PARTS)
        return {part: (*chunk[:-2], shapes[part].shape[-2], chunk[-1]) for part in parts}

    def _place(self, tensor: Tensor, rows: slice, shape: tuple[int, ...]) -> Index:
        """The index of some of a tensor's rows in an array that it is written to."""
        place = tensor.place(rows)
        if not self._quantized(tensor):
            return place
        return (*place[:-2], slice(0, shape[-2]), place[-1])  # chunks have all inputs of a channel

    def _values(self, tensor: Tensor, chunk: np.ndarray) -> dict[str, np.ndarray]:
        """A chunk as it is stored: a layer's `[fan_in, some of fan_out]`, or a vector."""
        if not self._quantized(tensor):
            return {tensor.leaf: chunk}
        return jax.device_get(
            quantization.parts_of(tensor.leaf, jnp.asarray(chunk), self._quantize)
        )
