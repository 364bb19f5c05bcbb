"""Trees of arrays in a folder, with orbax: written at once, checked when they are read."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint.experimental.v1 as ocp
from jax.sharding import SingleDeviceSharding

from cd4lm_jax.checkpoints import manifest
from cd4lm_jax.runtime import cluster
from cd4lm_jax.runtime.files import atomic_folder
from cd4lm_jax.runtime.trees import named_leaves

_CHUNK_BYTES = 1 << 27

Tree = Any  # nested containers of arrays; for model folders a nested dict


class CheckpointError(ValueError):
    """A checkpoint that is missing, incomplete, unreadable or of another shape; one line."""


class DamagedError(CheckpointError):
    """A checkpoint whose files are incomplete or no longer what was written."""


def save_tree(path: str | os.PathLike[str], tree: Tree) -> None:
    """Writes a tree of arrays as the folder `path`, replacing what was there once complete.

    On several hosts all of them call this, with a `path` that they share.

    Raises:
        OSError: the disk is full or `path` cannot be written; what was there stays.
    """
    if not cluster.is_main():
        with _chunked():
            ocp.save(cluster.from_main(None), tree)
        cluster.wait_for_all("tree saved")
        return
    with atomic_folder(path) as folder, storage_errors(path):
        folder.rmdir()  # orbax makes it; hosts that overwrite wait for each other in vain
        with _chunked():
            ocp.save(cluster.from_main(str(folder.absolute())), tree)
        # Orbax notes where it wrote: a temporary folder, on a machine that readers do not have.
        for note in folder.rglob("commit_success.txt"):
            note.write_text("Checkpoint commit was successful.")
        manifest.write(folder)
    cluster.wait_for_all("tree saved")


def load_tree(path: str | os.PathLike[str], abstract: Tree, *, verify: bool = True) -> Tree:
    """Reads what `save_tree` or `RunCheckpoints.save` wrote.

    Args:
        path: the folder.
        abstract: the same tree of `jax.ShapeDtypeStruct` (or arrays). Arrays come back with its
            dtypes and shardings; where it names no sharding, whole on the first device.
        verify: compare the files with their checksums first, where they are saved with them.

    Raises:
        CheckpointError: nothing there, incomplete or damaged, or another tree than `abstract`;
            names the first leaf that differs.
    """
    if verify:
        verify_tree(path)
    saved = description(path)
    difference = _first_difference(_shapes(saved.metadata), _shapes(abstract))
    if difference:
        raise CheckpointError(f"checkpoint {path} does not fit: {difference}")
    with load_errors(path):
        return ocp.load(pathlib.Path(path).absolute(), jax.tree.map(_target, abstract))


def verify_tree(path: str | os.PathLike[str]) -> None:
    """Compares the files of a saved tree with the checksums saved with them, where they are.

    Raises:
        DamagedError: a file is missing or no longer what was written.
    """
    try:
        manifest.check(pathlib.Path(path))
    except manifest.DamagedFileError as error:
        raise DamagedError(str(error)) from None


def check_tree(path: str | os.PathLike[str], abstract: Tree) -> None:
    """Compares what is saved with what `load_tree` would be asked for; reads no array.

    Raises:
        CheckpointError: nothing there or incomplete, another tree than `abstract`, or an array of
            another shape or dtype; names the first leaf that differs.
    """
    saved = description(path).metadata
    difference = _first_difference(_shapes(saved), _shapes(abstract))
    kinds = {name: leaf.dtype for name, leaf in named_leaves(saved).items()}
    for name, leaf in named_leaves(abstract).items():
        if not difference and kinds[name] != leaf.dtype:
            difference = f"{name!r} is {kinds[name]} there, expected {leaf.dtype}"
    if difference:
        raise CheckpointError(f"checkpoint {path} does not fit: {difference}")


def saved_dtype(path: str | os.PathLike[str]) -> str:
    """The dtype that the arrays of a saved tree have (its first leaf's).

    Raises:
        CheckpointError: nothing there, or incomplete.
    """
    return str(jax.tree.leaves(description(path).metadata)[0].dtype)


def description(path: str | os.PathLike[str]) -> Any:
    """Orbax's description of the checkpoint: `.metadata` (tree of shapes), `.custom_metadata`."""
    if not os.path.isdir(path):
        raise CheckpointError(f"no checkpoint at {path}: no such folder")
    with load_errors(path):
        return ocp.metadata(pathlib.Path(path).absolute())


def _chunked() -> Any:
    """Orbax's settings for saving models: chunks of a layer, or a run of rows of a large table.

    So a reader may take a part of an array; orbax by itself makes one chunk of a device's share.
    """

    def chunks(path: Any, leaf: Any) -> Any:
        del path
        stacked = leaf.ndim == 3
        return ocp.options.ArrayOptions.Saving.StorageOptions(
            chunk_byte_size=_CHUNK_BYTES, shard_axes=(0,) if stacked else None
        )

    context = ocp.Context()
    context.array.saving.scoped_storage_options_creator = chunks
    return context


def _target(leaf: Any) -> jax.ShapeDtypeStruct:
    # Without a sharding orbax would take the saved one, whose devices may not exist here.
    sharding = leaf.sharding or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    name = jax.tree_util.keystr
    return {name(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def _first_difference(
    saved: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> str | None:
    for name, shape in expected.items():
        if name not in saved:
            return f"it has no {name!r}, expected one of shape {shape}"
        if saved[name] != shape:
            return f"{name!r} has shape {saved[name]} there, expected {shape}"
    for name in saved.keys() - expected.keys():
        return f"it has {name!r} of shape {saved[name]}, which is not expected"
    return None


@contextlib.contextmanager
def load_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Makes a one-line `DamagedError` of what orbax and the array store raise on damaged data."""
    try:
        with quiet_orbax():
            yield
    except Exception as error:
        # Orbax wraps what the array store says about damaged data in a bare Exception.
        if not isinstance(error, ValueError | OSError | KeyError) and type(error) is not Exception:
            raise
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise DamagedError(f"checkpoint {path} is incomplete or damaged: {reason}") from error


@contextlib.contextmanager
def storage_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Makes an OSError again of the ValueError that the array store raises on a full disk."""
    try:
        with quiet_orbax():
            yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


_ALSO_RAISED = (
    "raised an exception",
    "Handler Commit operations",
    "Save Finalize thread",
    "Failed to get metadata for checkpointable",
    "Failed to json parse Metadata file",
    "Metadata file does not exist",
    # Logged for every zarr3 array in a folder of its own; a missing one is an error.
    "TensorStore data files not found",
)


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Drops what orbax logs at length when saving or reading fails; the caller gets the error."""

    def not_also_raised(record: logging.LogRecord) -> bool:
        return not any(phrase in record.getMessage() for phrase in _ALSO_RAISED)

    logger = logging.getLogger("absl")
    logger.addFilter(not_also_raised)
    try:
        yield
    finally:
        logger.removeFilter(not_also_raised)
