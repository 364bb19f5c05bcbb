"""Safetensors files: headers, rows of a tensor, and files written a chunk at a time.

A file is 8 bytes of header length, a JSON header and the tensors' bytes, one after the other.
Reading takes the rows asked for and no more; the library of the same name would hold a whole file
to write one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import ml_dtypes
import numpy as np

DTYPES = {"F32": np.dtype("float32"), "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype("f2")}
_KINDS = {dtype: kind for kind, dtype in DTYPES.items()}

_LENGTH = 8  # bytes, before the header
_METADATA = "__metadata__"


class TensorFileError(ValueError):
    """A file that is no safetensors file, or one that is cut off."""


class Rows(Protocol):
    """A tensor that rows can be read of, wherever they come from."""

    @property
    def file(self) -> pathlib.Path:
        """Where its data are."""

    @property
    def kind(self) -> str:
        """Its type as safetensors files name it."""

    @property
    def dtype(self) -> np.dtype:
        """The same for NumPy."""

    @property
    def shape(self) -> tuple[int, ...]:
        """In elements."""

    def rows(self, start: int, stop: int) -> np.ndarray:
        """`[stop - start, ...]`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
    """Where a tensor is in a file, and its type.

    Attributes:
        file: the safetensors file.
        kind: its type as the file names it, such as BF16.
        shape: in elements.
        start: of its bytes in the file.
    """

    file: pathlib.Path
    kind: str
    shape: tuple[int, ...]
    start: int

    @property
    def dtype(self) -> np.dtype:
        """Of a kind that is one of `DTYPES`."""
        return DTYPES[self.kind]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """`[stop - start, ...]`, read from the disk.

        Raises:
            OSError: the file cannot be read.
        """
        row = math.prod(self.shape[1:])
        offset = self.start + start * row * self.dtype.itemsize
        flat = np.fromfile(self.file, self.dtype, (stop - start) * row, offset=offset)
        return flat.reshape(stop - start, *self.shape[1:])


def read_header(file: pathlib.Path) -> dict[str, Stored]:
    """The tensors of a file by name, without their data.

    Raises:
        TensorFileError: it is no safetensors file, or shorter or longer than its header says.
        OSError: it cannot be read.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH), "little")
        data = _LENGTH + length
        if not 0 < length <= size - _LENGTH:
            raise TensorFileError(f"{file} is no safetensors file, or cut off; fetch it again")
        try:
            header = json.loads(opened.read(length))
            header.pop(_METADATA, None)
            found = {name: _stored(file, data, entry) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise TensorFileError(f"{file}: its header is damaged; fetch it again") from None
    spans = {name: header[name]["data_offsets"] for name in found}
    end = data + max((stop for _, stop in spans.values()), default=0)
    if size != end:
        raise TensorFileError(f"{file} has {size} bytes, by its header {end}; fetch it again")
    for name, stored in found.items():
        begin, stop = spans[name]
        if stored.kind in DTYPES:
            expected = math.prod(stored.shape) * stored.dtype.itemsize
            if stop - begin != expected:
                raise TensorFileError(
                    f"{file}: {name!r} takes {stop - begin} bytes, by its shape {expected}; fetch "
                    "the file again"
                )
    return found


def _stored(file: pathlib.Path, data: int, entry: Mapping[str, Any]) -> Stored:
    """One entry of a header; ValueError where no tensor is like that."""
    kind, shape, (begin, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = [*shape, begin, stop]
    if not isinstance(kind, str) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError(kind)
    if stop < begin:
        raise ValueError(stop)
    return Stored(file=file, kind=kind, shape=tuple(shape), start=data + begin)


def write_file(
    file: str | os.PathLike[str],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype,
    chunks: Iterable[np.ndarray],
) -> None:
    """Writes a file of tensors of one type.

    Args:
        file: to be created.
        shapes: by name, in the order in which they come.
        dtype: one of `DTYPES`.
        chunks: runs of rows which together are all tensors, one after the other.

    Raises:
        OSError: the disk is full.
    """
    # The metadata is what transformers looks for.
    header: dict[str, object] = {_METADATA: {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _KINDS[dtype], "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)  # data begin at a multiple of 8 bytes
    with open(file, "wb", buffering=0) as opened:
        opened.write(len(text).to_bytes(_LENGTH, "little") + text)
        written = 0
        for chunk in chunks:
            assert chunk.dtype == dtype
            rest = np.ascontiguousarray(chunk).view(np.uint8).reshape(-1).data
            written += len(rest)
            while rest:  # a system writes at most 2 GiB at once
                rest = rest[opened.write(rest) :]
    assert written == start
