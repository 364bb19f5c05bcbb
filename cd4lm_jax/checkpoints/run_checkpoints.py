"""The checkpoints of a training run: the latest few and the best, checked when they are read."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import math
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import orbax.checkpoint.experimental.v1 as ocp

from cd4lm_jax.checkpoints.array_trees import (
    CheckpointError,
    DamagedError,
    Tree,
    description,
    load_tree,
    quiet_orbax,
    storage_errors,
)
from cd4lm_jax.runtime import checksums, cluster
from cd4lm_jax.runtime.trees import named_leaves

_ASIDE = "damaged-"
"""Begins the name of a checkpoint that no longer counts."""
_UNFINISHED = ".orbax-checkpoint-tmp"
"""Ends the name of a checkpoint that orbax is still writing."""
_DESCRIPTION = ("_CHECKPOINT_METADATA", "state/_METADATA")
"""What orbax must be able to read of every checkpoint in a folder."""


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
        self._pending: Any = None
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(quiet_orbax())  # saves go on in threads of orbax's own
        try:
            self._checkpointer = self._open()
        except BaseException:
            self._quiet.close()
            raise

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
        score = float(score) if score is not None and math.isfinite(score) else None
        metrics = None if score is None else {"score": score}
        notes = {
            "step": step,
            "score": score,
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
            for unfinished in self._folder.glob(f"*{_UNFINISHED}"):
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
        lost = saved["checksums"].keys() - named_leaves(description(path).metadata).keys()
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
            self._quiet.close()

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
        strays = [path.name for path in self._folder.glob("*") if not _is_ours(path.name)]
        if strays:
            logging.getLogger(__name__).warning(
                "warning: %s has %s, which is no checkpoint; it is left alone",
                self._folder,
                ", ".join(sorted(strays)[:3]) + (" and more" if len(strays) > 3 else ""),
            )
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
        return dict(description(self._folder / str(step)).custom_metadata)


def _is_ours(name: str) -> bool:
    """Whether an entry of the folder is a checkpoint, or one that is damaged or unfinished."""
    return (
        (name.isascii() and name.isdecimal())
        or name.startswith((_ASIDE, "."))
        or name.endswith(_UNFINISHED)
    )


def _is_described(path: pathlib.Path) -> bool:
    """Whether what is saved beside a checkpoint's arrays can be read and is as it was saved."""
    file = path / "metrics" / "metrics"
    try:
        notes = dict(description(path).custom_metadata or {})
        score = json.loads(file.read_text())["score"] if file.exists() else None
    except (ValueError, KeyError, TypeError, OSError):
        return False
    if notes.pop("checksum", None) != checksums.of_json(notes):
        return False
    # Checkpoints of earlier versions have neither.
    return notes.get("score", score) == score and notes.get("step", int(path.name)) == int(
        path.name
    )


def _set_aside(path: pathlib.Path) -> None:
    """Renames a damaged checkpoint and says so."""
    aside = path.with_name(f"{_ASIDE}{path.name}")
    logging.getLogger(__name__).warning(
        "warning: checkpoint %s is damaged; it is kept as %s and another one is used",
        path,
        aside.name,
    )
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)
    path.rename(aside)
