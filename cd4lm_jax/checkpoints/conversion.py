"""From one layout of model folders to the other, streamed: a chunk of one tensor at a time.

The new folder is written beside its name, as `NAME.unfinished`, and renamed when it is complete.
Whatever ends a conversion earlier, the same call continues from what is there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from cd4lm_jax.checkpoints import (
    array_trees,
    gguf_files,
    gguf_tokenizer,
    huggingface,
    manifest,
    mask_token,
    model_folder,
    peft,
    published_tensors,
    side_files,
    weight_files,
)
from cd4lm_jax.checkpoints.chunks import Chunked, Index, TreeReader, TreeWriter, ahead
from cd4lm_jax.checkpoints.diffusion import Diffusion
from cd4lm_jax.checkpoints.families import family_for
from cd4lm_jax.checkpoints.huggingface import Checkpoint
from cd4lm_jax.checkpoints.published_tensors import Tensor
from cd4lm_jax.checkpoints.safetensors_files import DTYPES, write_file
from cd4lm_jax.models import quantization
from cd4lm_jax.models.config import NO_MASK, ModelConfig, check_dtype
from cd4lm_jax.models.quantization import Mode, check_mode
from cd4lm_jax.runtime import files
from cd4lm_jax.runtime.progress import Progress
from cd4lm_jax.runtime.trees import named_leaves
from cd4lm_jax.settings.config import config_to_json

_GENERATION_FILE = "generation_config.json"
_BEGUN_FILE = "conversion.json"


class ConversionError(ValueError):
    """A conversion that cannot be begun or continued."""


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    quantize: Mode = "none",
    diffusion: Diffusion | None = None,
    shard_bytes: int = 5_000_000_000,
    verify: bool = True,
    quiet: bool = True,
) -> ModelConfig:
    """Writes the model of one layout as a folder of the other, or a diffusion model made of it.

    Quantised, it is always a folder of our own layout: published ones have no form for that.

    Every tensor's name, shape and type is checked before anything is written. A call that was
    interrupted is continued by the same call.

    Args:
        source: a model folder, of which tokenizer, generation settings, modelling code and other
            side files are copied; or a GGUF file.
        target: appears when it is complete; must not hold anything yet.
        dtype: what parameters are stored in; None: as in the source. Quantised kernels have
            dtypes of their own.
        quantize: what kernels are quantised to, see `cd4lm_jax.models.quantization`.
        diffusion: makes a diffusion model of a published one, which may be autoregressive: it
            gets a mask token where it has none, and its tokenizer too.
        shard_bytes: most bytes of tensors in a file of the Hugging Face layout, unless one tensor
            alone is larger.
        verify: compare the source's files with their checksums, where there are some.
        quiet: show no progress.

    Returns:
        The model's architecture.

    Raises:
        ValueError: no model in `source`, one that cannot be expressed in the other layout, a
            `target` that is in use, or one begun from something else.
        OSError: the disk is full; what is done is kept for the next call.
    """
    if dtype is not None:
        check_dtype(dtype, "dtype")
    check_mode(quantize)
    source, target = pathlib.Path(source), pathlib.Path(target).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConversionError(
            f"{target} is not empty; give a folder that is, or one that does not exist"
        )
    if peft.lies_in(source):
        raise ConversionError(
            f"{source} has peft adapters, which a conversion would leave out; merge them with peft "
            "(merge_and_unload, then save_pretrained), or move adapter_* elsewhere to convert the "
            "base alone"
        )
    published = gguf_files.is_gguf(source) or huggingface.is_checkpoint(source)
    if diffusion is not None and not published:
        raise ConversionError(
            f"{source} is a folder of this project; a diffusion model is made of a published "
            "folder or a GGUF file, give that"
        )
    job: _ToOwn | _ToHuggingFace
    if published or quantize != "none":
        job = _ToOwn(source, dtype, quantize, diffusion, verify)
    else:
        job = _ToHuggingFace(source, dtype, shard_bytes, verify)
    with (
        _unfinished(target, job.begun) as folder,
        Progress(len(job.tensors), label="convert", unit="tensor", quiet=quiet) as progress,
    ):
        job.write(folder, progress)
    return job.config


@contextlib.contextmanager
def _unfinished(target: pathlib.Path, begun: dict[str, Any]) -> Iterator[pathlib.Path]:
    """A folder beside `target`, of an earlier call or new, which becomes it in the end."""
    folder = target.with_name(f"{target.name}.unfinished")
    with files.locked(folder):
        if not any(file.name != files.LOCK_FILE for file in folder.iterdir()):
            files.write_text(folder / _BEGUN_FILE, json.dumps(begun))
        elif _read(folder / _BEGUN_FILE) != begun:
            raise ConversionError(
                f"{folder} was begun from another source or with other settings; repeat those, or "
                "delete it to begin anew"
            )
        yield folder
        files.flush_tree(folder)
        os.replace(folder, target)
        for name in (_BEGUN_FILE, files.LOCK_FILE):
            (target / name).unlink()


def _read(note: pathlib.Path) -> Any:
    try:
        return json.loads(note.read_text())
    except (OSError, ValueError):
        return None


def _begun(source: pathlib.Path, inputs: Iterable[pathlib.Path], **settings: Any) -> dict[str, Any]:
    """What must be the same for a conversion to be continued."""
    states = {}
    for file in sorted(inputs):
        status = file.stat()
        states[str(file.relative_to(source))] = [status.st_size, status.st_mtime_ns]
    return {"inputs": states, "chunk": published_tensors.CHUNK_ELEMENTS, **settings}


def _leaves(
    config: ModelConfig, dtype: str, quantize: Mode = "none"
) -> dict[str, jax.ShapeDtypeStruct]:
    return named_leaves(model_folder.abstract_model(config, dtype=dtype, quantize=quantize))


class _ToOwn:
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
        base, settings = source, {"quantize": quantize}
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
            params, saved = _checked_params(source, self.config, verify)
            self._reader = TreeReader(params)
            inputs = {
                source / model_folder.CONFIG_FILE,
                *filter(pathlib.Path.is_file, params.rglob("*")),
            }
            self._read = self._own
        self._dtype = np.dtype(dtype or saved)
        self.begun = _begun(base, inputs, dtype=str(self._dtype), **settings)

    def write(self, folder: pathlib.Path, progress: Progress) -> None:
        """Writes the parameters of the model that are not there yet, then its config."""
        shapes = _leaves(self.config, str(self._dtype), self._quantize)
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
        return jax.device_get(quantization.parts_of(tensor.leaf, chunk, self._quantize))


def _checked_params(
    source: pathlib.Path, config: ModelConfig, verify: bool
) -> tuple[pathlib.Path, str]:
    """The folder of a model's parameters and what they are stored in.

    Raises:
        ConversionError: they are quantised.
        CheckpointError: they do not fit the config, or are damaged.
    """
    params, saved = source / model_folder.PARAMS_FOLDER, model_folder.stored_dtype(source)
    mode = model_folder.stored_mode(source)
    if mode != "none":
        raise ConversionError(
            f"{source} is quantised in {mode}, which no published layout holds and nothing undoes; "
            "convert the folder that it was made from"
        )
    array_trees.check_tree(params, _leaves(config, saved))
    if verify:
        array_trees.verify_tree(params)
    return params, saved


class _ToHuggingFace:
    """From orbax to safetensors."""

    def __init__(
        self, source: pathlib.Path, dtype: str | None, shard_bytes: int, verify: bool
    ) -> None:
        self.config = model_folder.read_config(source)
        self._family = family_for(self.config)
        self._source = source
        self._params, saved = _checked_params(source, self.config, verify)
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
        self.begun = _begun(source, inputs, dtype=str(self._dtype), shard_bytes=shard_bytes)

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
