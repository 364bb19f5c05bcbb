"""The checkpoints of a training run: the latest few and the best, checked when they are read."""

from __future__ import annotations

import base64
import contextlib
import math
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import orbax.checkpoint.experimental.v1 as ocp

from cd4lm_jax.checkpoints import damage
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
        if cluster.is_main():
            damage.warn_of_strays(self._folder)
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(quiet_orbax())  # orbax saves in its threads, also later
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
            for unfinished in self._folder.glob(f"*{damage.UNFINISHED}"):
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
            damage.set_aside(self._folder / str(step))
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
            damage.clear(self._folder)
        cluster.wait_for_all("checkpoints opened")
        return ocp.training.Checkpointer(
            self._folder.absolute(),
            preservation_policy=policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=True,
        )

    def _saved_metadata(self, step: int) -> dict[str, Any]:
        steps = self.steps()
        if step not in steps:
            raise CheckpointError(f"no checkpoint of step {step} in {self._folder}; there: {steps}")
        return dict(description(self._folder / str(step)).custom_metadata)
