"""Trees of arrays on disk, written and read a chunk at a time.

`array_trees.save_tree` needs memory for all arrays that it writes; a model that is only to be
converted need not fit into memory. What `TreeWriter` leaves is a checkpoint that orbax reads like
any other: arrays in zarr3, each chunk a file of its own, which appears when it is complete. So the
chunks that are there show what an interrupted writer had done.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorstore

from cd4lm_jax.checkpoints import manifest
from cd4lm_jax.checkpoints.array_trees import (
    CheckpointError,
    load_errors,
    save_tree,
    storage_errors,
)
from cd4lm_jax.runtime import files

Index = tuple[int | slice, ...]

_EXAMPLE = "example"
_ITEM = "state"  # how orbax names the tree that is saved without a name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunked:
    """An array and how it is divided.

    Attributes:
        shape: of the array.
        dtype: its name.
        chunk: shape of the parts that are written and read as one.
    """

    shape: tuple[int, ...]
    dtype: str
    chunk: tuple[int, ...]


class TreeWriter:
    """Writes a flat tree of arrays chunk by chunk, or what an earlier writer left to be done."""

    def __init__(self, path: str | os.PathLike[str], arrays: Mapping[str, Chunked]) -> None:
        """Opens the folder `path`, which is created where there is none.

        Args:
            path: a checkpoint folder; it is complete when all chunks are written and `close` has
                returned.
            arrays: by name.
        """
        self._path = pathlib.Path(path).absolute()
        self._arrays = arrays
        self._opened: dict[str, Any] = {}
        self._pending: Any = None

    def holds(self, name: str, index: Index) -> bool:
        """Whether the chunk at `index` is there already."""
        chunk = self._arrays[name].chunk
        starts = [at if isinstance(at, int) else at.start or 0 for at in index]
        place = [str(start // size) for start, size in zip(starts, chunk, strict=True)]
        return (self._path / _ITEM / name / "c").joinpath(*place).is_file()

    def write(self, name: str, index: Index, values: np.ndarray) -> None:
        """Starts writing the chunk at `index`, once the one before is on the disk.

        Args:
            name: of the array.
            index: a whole chunk, one entry an axis.
            values: not to be changed afterwards.

        Raises:
            OSError: the disk is full (this chunk or the one before).
        """
        self.flush()
        with storage_errors(self._path):
            if name not in self._opened:
                self._opened[name] = self._open(name)
            self._pending = self._opened[name][index].write(
                values, can_reference_source_data_indefinitely=True
            )

    def flush(self) -> None:
        """Returns when all that was written is on the disk.

        Raises:
            OSError: the disk is full.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            with storage_errors(self._path):
                pending.commit.result()

    def close(self) -> None:
        """Writes what orbax reads besides the arrays.

        Raises:
            OSError: the disk is full.
        """
        self.flush()
        # Orbax says itself how it describes a tree: that of one number, saved beside ours.
        with tempfile.TemporaryDirectory(prefix=files.TEMPORARY_PREFIX, dir=self._path) as folder:
            example = pathlib.Path(folder) / "example"
            save_tree(example, {_EXAMPLE: np.zeros(1, np.float32)})
            checkpoint = json.loads((example / "_CHECKPOINT_METADATA").read_text())
            described = json.loads((example / _ITEM / "_METADATA").read_text())
        ((_, entry),) = described["tree_metadata"].items()
        described["tree_metadata"] = {
            str((name,)): {
                "key_metadata": [key | {"key": name} for key in entry["key_metadata"]],
                "value_metadata": entry["value_metadata"]
                | {"value_type": "jax.Array", "write_shape": array.shape},
            }
            for name, array in self._arrays.items()
        }
        described["use_ocdbt"] = False  # every chunk is a file of its own
        (self._path / _ITEM / "_METADATA").write_text(json.dumps(described))
        handlers = {"item_handlers": checkpoint["item_handlers"]}
        (self._path / "_CHECKPOINT_METADATA").write_text(json.dumps(handlers))
        (self._path / "orbax.checkpoint").touch()
        manifest.write(self._path)

    def _open(self, name: str) -> Any:
        array = self._arrays[name]
        grid = {"name": "regular", "configuration": {"chunk_shape": array.chunk}}
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": f"{self._path / _ITEM / name}/"},
            "metadata": {
                "shape": array.shape,
                "data_type": array.dtype,
                "chunk_grid": grid,
                "codecs": [
                    {"name": "bytes", "configuration": {"endian": "little"}},
                    {"name": "crc32c"},
                ],
                "fill_value": 0.0,
            },
            "store_data_equal_to_fill_value": True,  # a chunk of zeros, too, is one that is there
            "open": True,
            "create": True,
        }
        return tensorstore.open(spec).result()


class TreeReader:
    """Reads parts of the arrays of a checkpoint that `TreeWriter` or `save_tree` wrote."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Looks at the folder `path`.

        Raises:
            CheckpointError: there is no tree of arrays.
        """
        self._path = pathlib.Path(path).absolute() / _ITEM
        if not self._path.is_dir():
            raise CheckpointError(f"no arrays in {path}: there is no folder {_ITEM!r}")
        self._packed = (self._path / "manifest.ocdbt").is_file()
        self._name = ""
        self._array: Any = None
        self._begin, self._run = 0, np.empty(0)

    def read(self, name: str, index: Index) -> np.ndarray:
        """The part at `index` of an array.

        Chunks that span several layers are read once for all of them, so ask for one array after
        the other and for its parts in order.

        Raises:
            DamagedError: what is there is incomplete or no longer what was written.
        """
        with load_errors(self._path.parent):
            if name != self._name:
                self._name, self._run = name, np.empty(0)
                self._array = self._open(name)
            array, first = self._array, index[0]
            span = array.chunk_layout.read_chunk.shape[0]
            if not isinstance(first, int) or span == 1:
                return np.asarray(array[index].read().result())
            if not self._begin <= first < self._begin + len(self._run):
                self._run = np.empty(0)  # before the next one comes
                self._begin = first - first % span
                self._run = array[self._begin : self._begin + span].read().result()
            return np.asarray(self._run[(first - self._begin, *index[1:])])

    def _open(self, name: str) -> Any:
        folder = {"driver": "file", "path": f"{self._path}/"}
        kvstore: dict[str, Any] = {"driver": "file", "path": f"{self._path / name}/"}
        if self._packed:
            kvstore = {"driver": "ocdbt", "base": folder, "path": f"{name}/"}
        spec = {"driver": "zarr3", "kvstore": kvstore, "fill_missing_data_reads": False}
        return tensorstore.open(spec, open=True, read=True).result()


def ahead(items: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Makes each item while the one before is in use."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
