"""Checkpoints with orbax: trees of arrays in a folder, and the checkpoints of a training run."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import math
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint.experimental.v1 as ocp
from jax.sharding import SingleDeviceSharding

from cd4lm_jax.runtime import checksums, cluster
from cd4lm_jax.runtime.files import atomic_folder
from cd4lm_jax.runtime.trees import named_leaves

_CHUNK_BYTES = 1 << 27
_DESCRIPTION = ("_CHECKPOINT_METADATA", "state/_METADATA")
"""What orbax must be able to read of every checkpoint in a folder."""

Tree = Any  # nested containers of arrays; for model folders a nested dict


class CheckpointError(ValueError):
    """A checkpoint that is missing, incomplete, unreadable or of another shape; one line."""


class DamagedError(CheckpointError):
    """A checkpoint whose files are incomplete or no longer what was written."""


class Restored(NamedTuple):
    """What `RunCheckpoints.restore` returns.

    Attributes:
      state: arrays as `abstract_state` asked for.
      data_state: the data iterator's position, as saved.
      metadata: the JSON values saved with it.
    """

    state: Tree
    data_state: bytes | dict[str, Any] | None
    metadata: dict[str, Any]


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
    cluster.wait_for_all("tree saved")


def load_tree(path: str | os.PathLike[str], abstract: Tree) -> Tree:
    """Reads what `save_tree` or `RunCheckpoints.save` wrote.

    Args:
      path: the folder.
      abstract: the same tree of `jax.ShapeDtypeStruct` (or arrays). Arrays come back with its
        dtypes and shardings; where it names no sharding, whole on the first device.

    Raises:
      CheckpointError: nothing there, incomplete or damaged, or another tree than `abstract`;
        names the first leaf that differs.
    """
    saved = _metadata(path)
    difference = _first_difference(_shapes(saved.metadata), _shapes(abstract))
    if difference:
        raise CheckpointError(f"checkpoint {path} does not fit: {difference}")
    with load_errors(path):
        return ocp.load(pathlib.Path(path).absolute(), jax.tree.map(_target, abstract))


def check_tree(path: str | os.PathLike[str], abstract: Tree) -> None:
    """Compares what is saved with what `load_tree` would be asked for; reads no array.

    Raises:
      CheckpointError: nothing there or incomplete, another tree than `abstract`, or an array of
        another shape or dtype; names the first leaf that differs.
    """
    saved = _metadata(path).metadata
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
    return str(jax.tree.leaves(_metadata(path).metadata)[0].dtype)


class RunCheckpoints:
    """The checkpoints of one training run: `folder/STEP/`, the latest few and the best.

    A checkpoint appears under its name only when it is complete; unfinished ones, left by a run
    that was killed, are removed on opening. With each go checksums of its arrays and of what is
    saved beside them, which reading compares: the array store itself does not see a flipped bit.
    On several hosts all of them make the same calls.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, keep_latest: int = 2, keep_best: bool = True
    ) -> None:
        """Opens the folder, which is created where there is none.

        Args:
          folder: where the checkpoints are.
          keep_latest: how many of the latest are kept, at least 1.
          keep_best: keep the one with the highest score too.
        """
        if keep_latest < 1:
            raise ValueError(f"keep_latest={keep_latest}; keep at least 1 checkpoint")
        self._folder = pathlib.Path(folder)
        self._keep_latest, self._keep_best = keep_latest, keep_best
        self._checkpointer = self._open()
        self._pending: Any = None

    def save(
        self,
        step: int,
        state: Tree,
        *,
        data_state: bytes | dict[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        score: float | None = None,
    ) -> None:
        """Starts saving `state` as of `step`; arrays may be donated as soon as this returns.

        Waits for the save before, if that is still under way. A step that is already saved is
        left as it is.

        Args:
          step: updates made so far.
          state: tree of arrays; no typed PRNG keys.
          data_state: the data iterator's `get_state()`, bytes or JSON values.
          metadata: JSON values (config, counters, best score so far).
          score: higher is better; a score that is not finite never is the best.

        Raises:
          OSError: the disk is full (this save or the one before); earlier checkpoints stay.
        """
        self.wait()
        if step in self.steps():
            return
        if isinstance(data_state, bytes):
            data_state = {"base64": base64.b64encode(data_state).decode()}
        metrics = {"score": float(score)} if score is not None and math.isfinite(score) else None
        notes = {
            "data_state": data_state,
            "metadata": dict(metadata or {}),
            "checksums": checksums.of_arrays(state),
        }
        with storage_errors(self._folder):
            self._pending = self._checkpointer.save_checkpointables_async(
                step,
                {"state": state},
                force=True,
                metrics=metrics,
                custom_metadata=notes | {"checksum": checksums.of_json(notes)},
            )

    def wait(self) -> None:
        """Returns when the last save is on the disk.

        Raises:
          OSError: it failed.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            with storage_errors(self._folder):
                pending.result()
        except Exception:
            # Orbax would raise this again at the next call, and leave the unfinished files.
            with contextlib.suppress(Exception):
                self._checkpointer.close()
            for unfinished in self._folder.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(unfinished, ignore_errors=True)
            self._checkpointer = self._open()
            raise

    def steps(self) -> list[int]:
        """The steps that have a complete checkpoint, ascending."""
        self.wait()
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def latest(self) -> int | None:
        """The last step that has a checkpoint, None without any."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step with the highest score (the latest of equals), None without any score."""
        self.wait()
        scored = [c for c in self._checkpointer.checkpoints if c.metrics]
        return max(scored, key=lambda c: (c.metrics["score"], c.step)).step if scored else None

    def metadata(self, step: int) -> dict[str, Any]:
        """The metadata saved with `step`, without its arrays.

        Raises:
          CheckpointError: no such step.
        """
        return dict(self._saved_metadata(step)["metadata"])

    def restore(self, step: int, abstract_state: Tree) -> Restored:
        """Reads the checkpoint of `step`; see `load_tree` for `abstract_state`.

        The sharding may differ from that of the run that saved it.

        Raises:
          DamagedError: its files are incomplete or no longer what was written.
          CheckpointError: no such step, or another state than `abstract_state`.
        """
        saved = self._saved_metadata(step)
        data_state = saved["data_state"]
        if data_state is not None and set(data_state) == {"base64"}:
            data_state = base64.b64decode(data_state["base64"])
        path = self._folder / str(step)
        lost = saved["checksums"].keys() - named_leaves(_metadata(path).metadata).keys()
        if lost:
            raise DamagedError(f"checkpoint {path} is damaged: {min(lost)!r} cannot be found")
        state = load_tree(path, abstract_state)
        changed = [
            n for n, sum_ in checksums.of_arrays(state).items() if sum_ != saved["checksums"][n]
        ]
        if changed:
            raise DamagedError(f"checkpoint {path} is damaged: {changed[0]!r} is not as saved")
        return Restored(state, data_state, saved["metadata"])

    def set_aside(self, step: int) -> None:
        """Renames the checkpoint of `step`, a damaged one, so that it no longer counts."""
        self.wait()
        self._checkpointer.close()
        if cluster.is_main():
            _set_aside(self._folder / str(step))
        self._checkpointer = self._open()

    def close(self) -> None:
        """Waits for the last save and releases what orbax holds.

        Raises:
          OSError: the last save failed.
        """
        try:
            self.wait()
        finally:
            self._checkpointer.close()

    def __enter__(self) -> RunCheckpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> Any:
        policies = ocp.training.preservation_policies
        keep: list[Any] = [policies.LatestN(self._keep_latest)]
        if self._keep_best:
            best = policies.BestN(
                get_metric_fn=lambda metrics: metrics["score"],
                n=1,
                keep_checkpoints_without_metrics=False,
            )
            keep.append(best)
        if cluster.is_main():
            self._clear_undescribed()
        cluster.wait_for_all("checkpoints opened")
        return ocp.training.Checkpointer(
            self._folder.absolute(),
            preservation_policy=policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=True,
        )

    def _clear_undescribed(self) -> None:
        """Moves what has no sound description out of the way; orbax refuses a folder with one."""
        paths = [path for path in self._folder.glob("[0-9]*") if path.name.isdecimal()]
        described = {int(path.name): _is_described(path) for path in paths}
        newest = max((step for step, sound in described.items() if sound), default=-1)
        for path in paths:
            if described[int(path.name)]:
                continue
            # A checkpoint is complete before it has its name: one that lacks files was being
            # removed for newer ones when the run was killed.
            if int(path.name) < newest and not all((path / file).exists() for file in _DESCRIPTION):
                shutil.rmtree(path)
            else:
                _set_aside(path)

    def _saved_metadata(self, step: int) -> dict[str, Any]:
        steps = self.steps()
        if step not in steps:
            raise CheckpointError(f"no checkpoint of step {step} in {self._folder}; there: {steps}")
        return dict(_metadata(self._folder / str(step)).custom_metadata)


def _is_described(path: pathlib.Path) -> bool:
    """Whether what lies beside a checkpoint's arrays can be read and is as it was saved."""
    score = path / "metrics" / "metrics"
    try:
        notes = dict(_metadata(path).custom_metadata or {})
        if score.exists():
            json.loads(score.read_text())
    except ValueError:
        return False
    return notes.pop("checksum", None) == checksums.of_json(notes)


def _set_aside(path: pathlib.Path) -> None:
    """Renames a damaged checkpoint and says so."""
    aside = path.with_name(f"damaged-{path.name}")
    logging.getLogger(__name__).warning(
        "warning: checkpoint %s is damaged; it is kept as %s and the one before is used",
        path,
        aside.name,
    )
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def _metadata(path: str | os.PathLike[str]) -> Any:
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
    # Said of every zarr3 array that lies in a folder of its own; a missing one is an error.
    "TensorStore data files not found",
)


def _not_also_raised(record: logging.LogRecord) -> bool:
    return not any(phrase in record.getMessage() for phrase in _ALSO_RAISED)


# When saving or reading fails, orbax logs at length what the caller gets as an error too.
logging.getLogger("absl").addFilter(_not_also_raised)
