"""Hugging Face folders: `config.json` and safetensors of a known family, checked and read."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cd4lm_jax.checkpoints import mask_token, quantizing, weight_files
from cd4lm_jax.checkpoints.adapters import PeftAdapters
from cd4lm_jax.checkpoints.families import family_of
from cd4lm_jax.checkpoints.family import MASK_KEY, Family, HuggingFaceError
from cd4lm_jax.checkpoints.model_folder import PARAMS_FOLDER, abstract_model
from cd4lm_jax.checkpoints.published_tensors import Tensor, all_tensors, transpose
from cd4lm_jax.checkpoints.safetensors_files import DTYPES, Rows
from cd4lm_jax.checkpoints.weight_files import INDEX_FILE, SINGLE_FILE
from cd4lm_jax.models.config import ModelConfig, check_dtype
from cd4lm_jax.models.quantization import Mode
from cd4lm_jax.models.transformer import Execution, Transformer
from cd4lm_jax.runtime import files
from cd4lm_jax.runtime.trees import named_leaves

CONFIG_FILE = "config.json"
_BUFFER = ".rotary_emb.inv_freq"
"""End of the names of tensors that old versions stored and every version computes."""


def is_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder has the Hugging Face layout, complete or not."""
    path = pathlib.Path(folder)
    if (path / INDEX_FILE).is_file() or (path / SINGLE_FILE).is_file():
        return True
    if (path / PARAMS_FOLDER).is_dir():
        return False
    try:
        described = "model_type" in json.loads(files.read_text(path / CONFIG_FILE))
    except (OSError, ValueError, TypeError, RecursionError):
        described = False
    return described or weight_files.any_in(path)


def read_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """The architecture in a `config.json`.

    Raises:
        HuggingFaceError: of no known family, or a variant that is computed differently.
    """
    return _read_config(folder)[1]


def _read_config(folder: str | os.PathLike[str]) -> tuple[Family, ModelConfig]:
    file = pathlib.Path(folder) / CONFIG_FILE
    try:
        data = json.loads(files.read_text(file))
    except FileNotFoundError:
        raise HuggingFaceError(f"{file} is missing; copy it from the checkpoint's hub") from None
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", error)
        raise HuggingFaceError(f"{file} is not JSON ({reason}); fetch it again") from None
    if not isinstance(data, dict):
        raise HuggingFaceError(f"{file} is no JSON object; fetch it again")
    if data.get(MASK_KEY) is None and (found := mask_token.in_tokenizer(folder)) is not None:
        data[MASK_KEY] = found
    try:
        family = family_of(data, str(file))
        return family, family.read(data, str(file))
    except KeyError as error:
        raise HuggingFaceError(
            f"{file} has no {error}; published ones have, fetch it again"
        ) from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A Hugging Face folder of which every tensor's name, shape and type were checked.

    Attributes:
        family: whose it is.
        config: the architecture.
        tensors: what it consists of, one parameter of ours after the other.
        stored: where each tensor's data are, by name.
    """

    family: Family
    config: ModelConfig
    tensors: list[Tensor]
    stored: Mapping[str, Rows]

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, verify: bool = True) -> Checkpoint:
        """Reads all headers of a folder, and its weights where there is something to compare.

        Args:
            folder: where `config.json` is.
            verify: compare the files with their checksums, where some are known.

        Raises:
            HuggingFaceError: `config.json` is of no known family; there are no weights; a tensor
                is missing, of another shape than it says, of a type that is unknown, or none of
                the model.
            TensorFileError: a file is damaged or cut off.
            DamagedFileError: a file has changed.
        """
        path = pathlib.Path(folder)
        family, config = _read_config(path)
        stored = weight_files.read_headers(path)
        expected = all_tensors(family, config)
        for tensor in expected:
            if tensor.name not in stored:
                raise HuggingFaceError(
                    f"{path}: there is no tensor {tensor.name!r}; {CONFIG_FILE} asks for one of "
                    f"shape {tensor.shape}"
                )
            found = stored[tensor.name]
            if found.shape != tensor.whole_shape:
                raise HuggingFaceError(
                    f"{path}: {tensor.name} has shape {found.shape}, {CONFIG_FILE} makes it "
                    f"{tensor.whole_shape}"
                )
            if found.kind not in DTYPES:
                raise HuggingFaceError(
                    f"{path}: {tensor.name} is of type {found.kind}; expected one of "
                    f"{', '.join(DTYPES)}"
                )
        head, embedding = (family.tensors[name][0] for name in ("head", "embedding"))
        unknown = stored.keys() - {tensor.name for tensor in expected}
        unknown = {name for name in unknown if not name.endswith(_BUFFER)}
        if config.tie_head and head in unknown:
            if not _equal(stored[head], stored[embedding]):
                raise HuggingFaceError(
                    f"{path}: {CONFIG_FILE} ties the head to the embedding, but {head} differs "
                    f"from {embedding}; set the tie to false in {CONFIG_FILE}, or fetch it again"
                )
            unknown.remove(head)
        if unknown:
            raise HuggingFaceError(
                f"{path}: {min(unknown)!r} is no tensor of the model that {CONFIG_FILE} describes"
            )
        names = {tensor.name for tensor in expected}
        used: dict[str, Rows] = {name: found for name, found in stored.items() if name in names}
        if verify:
            weight_files.check_digests(path, {found.file for found in used.values()})
        return cls(family=family, config=config, tensors=expected, stored=used)

    @property
    def files(self) -> set[pathlib.Path]:
        """Where the weights are."""
        return {stored.file for stored in self.stored.values()}

    def dtype(self) -> str:
        """The type that all tensors are stored in.

        Raises:
            HuggingFaceError: they differ.
        """
        first = self.tensors[0]
        for tensor in self.tensors:
            if self.stored[tensor.name].kind != self.stored[first.name].kind:
                raise HuggingFaceError(
                    f"{tensor.name} is of type {self.stored[tensor.name].kind}, {first.name} of "
                    f"{self.stored[first.name].kind}; give the dtype in which all are to be stored"
                )
        return str(self.stored[first.name].dtype)


def _equal(one: Rows, other: Rows) -> bool:
    """Whether two tensors have the same shape, type and bytes, read some rows at a time."""
    if (one.shape, one.kind) != (other.shape, other.kind) or one.kind not in DTYPES:
        return False
    step = max(1, (1 << 26) // max(1, one.shape[-1]))
    return all(
        one.rows(start, stop).tobytes() == other.rows(start, stop).tobytes()
        for start in range(0, one.shape[0], step)
        for stop in [min(start + step, one.shape[0])]
    )


def read_model(
    folder: str | os.PathLike[str],
    execution: Execution = Execution(),
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    verify: bool = True,
    quantize: Mode = "none",
    adapters: PeftAdapters | None = None,
) -> Transformer:
    """Reads a checkpoint, parameters cast to `dtype`, sharded over `mesh` if given.

    Each device's part is read from the disk by itself, so memory holds no more than one part of
    one parameter beside the model.

    Args:
        folder: where `config.json` is.
        execution: how the model is to run.
        dtype: of the parameters.
        mesh: what they are split over.
        verify: compare the files with their checksums, where some are known.
        quantize: what the kernels are quantised to, one parameter after the other.
        adapters: are added to the kernels before that.

    Raises:
        ValueError: an unknown dtype or mode, or as `Checkpoint.open`.
    """
    check_dtype(dtype, "dtype")
    checkpoint = Checkpoint.open(folder, verify=verify)
    dense = abstract_model(checkpoint.config, execution, dtype=dtype, mesh=mesh)
    model = abstract_model(checkpoint.config, execution, dtype=dtype, mesh=mesh, quantize=quantize)
    parameters = _parameters(checkpoint, dense)
    if adapters is not None:
        parameters = adapters.merged(parameters)
    return quantizing.assemble(model, quantize, parameters)


def _parameters(checkpoint: Checkpoint, model: Transformer) -> Iterator[tuple[str, jax.Array]]:
    """Our parameters, one after the other."""
    parts = collections.defaultdict(list)
    for tensor in checkpoint.tensors:
        parts[tensor.leaf].append(tensor)
    for name, leaf in named_leaves(model).items():
        read = _part(parts[name], checkpoint.stored, leaf)
        yield name, jax.make_array_from_callback(leaf.shape, quantizing.placement(leaf), read)


def _part(tensors: list[Tensor], stored: Mapping[str, Rows], leaf: Any) -> Any:
    """A function from an index into a parameter to the values there."""

    def read(index: tuple[slice, ...]) -> np.ndarray:
        index = tuple(slice(*at.indices(n)) for at, n in zip(index, leaf.shape, strict=True))
        values = np.empty([at.stop - at.start for at in index], leaf.dtype)
        for tensor in tensors:
            stacked = index[: len(tensor.index)]
            place = [n - at.start for n, at in zip(tensor.index, stacked, strict=True)]
            if all(0 <= n < at.stop - at.start for n, at in zip(place, stacked, strict=True)):
                _fill(values[tuple(place)], tensor, stored, index[len(stacked) :])
        return values

    return read


def _fill(
    target: np.ndarray, tensor: Tensor, stored: Mapping[str, Rows], index: tuple[slice, ...]
) -> None:
    """Reads the part at `index` of our form of a tensor, a chunk at a time."""
    rows, *others = index[::-1] if tensor.transposed else index
    for start in range(rows.start, rows.stop, tensor.rows_at_once):
        stop = min(start + tensor.rows_at_once, rows.stop)
        chunk = tensor.read(stored[tensor.name], start, stop)[:, *others]
        here = slice(start - rows.start, stop - rows.start)
        if tensor.transposed:
            transpose(chunk, target[:, here])
        else:
            target[here] = chunk
