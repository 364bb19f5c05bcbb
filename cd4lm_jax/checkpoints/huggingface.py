"""Hugging Face folders: ``config.json`` and safetensors of a known family, checked and read."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from cd4lm_jax.checkpoints.families import Family, HuggingFaceError, family_of
from cd4lm_jax.checkpoints.folder import abstract_model
from cd4lm_jax.checkpoints.tensor_files import DTYPES, Stored, read_header
from cd4lm_jax.checkpoints.tensors import Tensor, all_tensors, transpose
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.transformer import Execution, Transformer
from cd4lm_jax.runtime.trees import named_leaves, with_leaves

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"


def is_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """Whether the folder holds safetensors weights."""
    path = pathlib.Path(folder)
    return (path / INDEX_FILE).is_file() or (path / SINGLE_FILE).is_file()


def read_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """The architecture in a ``config.json``.

    Raises:
        HuggingFaceError: of no known family, or a variant that is computed differently.
    """
    return _read_config(folder)[1]


def _read_config(folder: str | os.PathLike[str]) -> tuple[Family, ModelConfig]:
    file = pathlib.Path(folder) / CONFIG_FILE
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
        family = family_of(data, str(file))
        return family, family.read(data, str(file))
    except FileNotFoundError:
        raise HuggingFaceError(f"{file} is missing; copy it from the checkpoint's hub") from None
    except json.JSONDecodeError as error:
        raise HuggingFaceError(f"{file} is not JSON ({error.msg}); fetch it again") from None
    except KeyError as error:
        raise HuggingFaceError(
            f"{file} has no {error}; published ones have, fetch it again"
        ) from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A Hugging Face folder of which every tensor's name, shape and type were checked.

    Attributes:
        config: the architecture.
        tensors: what it consists of, one parameter of ours after the other.
        stored: by their name, where the data are.
    """

    config: ModelConfig
    tensors: list[Tensor]
    stored: dict[str, Stored]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Checkpoint:
        """Reads all headers of a folder and no weights.

        Raises:
            HuggingFaceError: ``config.json`` is of no known family; a tensor is missing, of another
                shape than it says, of a type that is unknown, or none of the model.
            TensorFileError: a file is damaged or cut off.
        """
        path = pathlib.Path(folder)
        family, config = _read_config(path)
        stored = _stored(path)
        expected = all_tensors(family, config)
        for tensor in expected:
            if tensor.name not in stored:
                raise HuggingFaceError(
                    f"{path}: there is no tensor {tensor.name!r}; {CONFIG_FILE} asks for one of "
                    f"shape {tensor.shape}"
                )
            found = stored[tensor.name]
            if found.shape != tensor.shape:
                raise HuggingFaceError(
                    f"{path}: {tensor.name} has shape {found.shape}, {CONFIG_FILE} makes it "
                    f"{tensor.shape}"
                )
            if found.kind not in DTYPES:
                raise HuggingFaceError(
                    f"{path}: {tensor.name} is of type {found.kind}; expected one of "
                    f"{', '.join(DTYPES)}"
                )
        if unknown := stored.keys() - {tensor.name for tensor in expected}:
            raise HuggingFaceError(
                f"{path}: {min(unknown)!r} is no tensor of the model that {CONFIG_FILE} describes"
            )
        return cls(config=config, tensors=expected, stored=stored)

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


def _stored(path: pathlib.Path) -> dict[str, Stored]:
    """The tensors in the files of a folder, sharded or not."""
    index = path / INDEX_FILE
    if not index.is_file():
        return read_header(path / SINGLE_FILE)
    try:
        listed: dict[str, str] = json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"]
    except (ValueError, KeyError, TypeError):
        raise HuggingFaceError(f"{index} is damaged or no index; fetch it again") from None
    found: dict[str, Stored] = {}
    for name in sorted(set(listed.values())):
        if not (path / name).is_file():
            raise HuggingFaceError(f"{path / name} is missing, {INDEX_FILE} lists it; fetch it")
        found |= read_header(path / name)
    for name, file in listed.items():
        if name not in found or found[name].file.name != file:
            raise HuggingFaceError(f"{path / file} has no {name!r}, {INDEX_FILE} says so; fetch it")
    return found


def read_model(
    folder: str | os.PathLike[str],
    execution: Execution = Execution(),
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
) -> Transformer:
    """Reads a checkpoint, parameters cast to ``dtype``, sharded over ``mesh`` if given.

    Each device's part is read from the disk by itself, so no more than one part of one parameter
    is held beyond the model.

    Raises:
        HuggingFaceError, TensorFileError: as `Checkpoint.open`.
    """
    checkpoint = Checkpoint.open(folder)
    model = abstract_model(checkpoint.config, execution, dtype=dtype, mesh=mesh)
    parts = collections.defaultdict(list)
    for tensor in checkpoint.tensors:
        parts[tensor.leaf].append(tensor)
    leaves = {
        name: jax.make_array_from_callback(
            leaf.shape,
            leaf.sharding or SingleDeviceSharding(jax.local_devices()[0]),
            _part(parts[name], checkpoint.stored, leaf),
        )
        for name, leaf in named_leaves(model).items()
    }
    return with_leaves(model, leaves)


def _part(tensors: list[Tensor], stored: Mapping[str, Stored], leaf: Any) -> Any:
    """A function from an index into a parameter to the values there."""

    def read(index: tuple[slice, ...]) -> np.ndarray:
        index = tuple(slice(*at.indices(n)) for at, n in zip(index, leaf.shape, strict=True))
        values = np.empty([at.stop - at.start for at in index], leaf.dtype)
        if tensors[0].layer is None:
            _fill(values, tensors[0], stored, index)
        else:
            for target, tensor in zip(values, tensors[index[0]], strict=True):
                _fill(target, tensor, stored, index[1:])
        return values

    return read


def _fill(
    target: np.ndarray, tensor: Tensor, stored: Mapping[str, Stored], index: tuple[slice, ...]
) -> None:
    """Reads what lies at ``index`` of our form of a tensor, a piece at a time."""
    rows, *others = index[::-1] if tensor.transposed else index
    for start in range(rows.start, rows.stop, tensor.rows_at_once):
        stop = min(start + tensor.rows_at_once, rows.stop)
        piece = stored[tensor.name].rows(start, stop)[:, *others]
        here = slice(start - rows.start, stop - rows.start)
        if tensor.transposed:
            transpose(piece, target[:, here])
        else:
            target[here] = piece
