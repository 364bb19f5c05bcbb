"""Metrics of a run: one JSON line a call, and TensorBoard event files.

Strict JSON knows neither NaN nor infinity, so such values are written as null (which pandas and
its like read as "not a number") and come back as NaN.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import pathlib
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, Protocol, SupportsFloat

from cd4lm_jax.runtime import json_files
from cd4lm_jax.runtime.files import AppendOnly

METRICS_FILE = "metrics.jsonl"

Metrics = Mapping[str, SupportsFloat]


class MetricWriter(Protocol):
    """Takes scalars; a key keeps its name in whatever is written."""

    def write(self, step: int, metrics: Metrics) -> None:
        """Records `metrics` (numbers, or arrays with one element) as of `step`."""

    def close(self) -> None:
        """Releases files; nothing is written after."""


class JsonlWriter:
    """Appends `{"step": 3, "loss": 1.5, ...}` lines to a file, each complete when `write` returns.

    A last line that a killed run left unfinished is removed on opening.

    Args:
        path: the file.
        after: the step that the run goes on from. Lines of later steps, which it will write again,
            are removed; None keeps all lines.
    """

    def __init__(self, path: str | os.PathLike[str], *, after: int | None = None) -> None:
        self._file = AppendOnly(path)
        self._file.cut_after(b"\n")
        if after is not None:
            steps = [row.get("step", 0) for row in read_jsonl(path)]
            kept = sum(1 for _ in itertools.takewhile(lambda step: step <= after, steps))
            lines = pathlib.Path(path).read_bytes().splitlines(keepends=True)
            self._file.truncate(sum(map(len, lines[:kept])))

    def write(self, step: int, metrics: Metrics) -> None:
        """Appends one line.

        Raises:
            OSError: the disk is full.
        """
        line: dict[str, Any] = {"step": int(step)}
        for name, value in metrics.items():
            number = float(value)
            line[name] = number if math.isfinite(number) else None
        self._file.append(json.dumps(line, allow_nan=False).encode() + b"\n")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardWriter:
    """Scalars as a TensorBoard event file in a folder, a new one for each writer.

    Its first event has TensorBoard drop what earlier files hold of steps beyond `after`.

    Of tensorboardX only the format is used: its SummaryWriter writes from a thread of its own,
    where a full disk ends in a stack trace instead of an error that the caller can handle.
    """

    def __init__(self, folder: str | os.PathLike[str], *, after: int | None = None) -> None:
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import masked_crc32c

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._checksum = masked_crc32c
        # TensorBoard goes by "tfevents" in the name and sorts the files of a folder by name.
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._file = AppendOnly(pathlib.Path(folder) / name)
        self._append(file_version="brain.Event:2")
        if after is not None:
            started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._append(step=after + 1, session_log=started)

    def write(self, step: int, metrics: Metrics) -> None:
        """Appends one event with all scalars.

        Raises:
            OSError: the disk is full.
        """
        values = [
            self._summary.Value(tag=name, simple_value=float(value))
            for name, value in metrics.items()
        ]
        self._append(step=int(step), summary=self._summary(value=values))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _append(self, **fields: Any) -> None:
        # A TFRecord: length, its checksum, the event, its checksum.
        event = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(event))
        checksums = [struct.pack("<I", self._checksum(part)) for part in (length, event)]
        self._file.append(length + checksums[0] + event + checksums[1])


class Writers:
    """Metrics of the run in `folder`: `metrics.jsonl` and TensorBoard files in `tensorboard/`.

    With `folder` None nothing is written: of several hosts one writes for all.

    Args:
        folder: of the run.
        after: the step that the run goes on from, 0 from scratch; what is there of later steps is
            removed, so that no step is in a file twice. None keeps everything.

    Raises:
        ValueError: a line of the run so far is not a JSON object, named by file and line.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, *, after: int | None = None) -> None:
        self._writers: tuple[MetricWriter, ...] = ()
        if folder is not None:
            folder = pathlib.Path(folder)
            self._writers = (
                JsonlWriter(folder / METRICS_FILE, after=after),
                TensorBoardWriter(folder / "tensorboard", after=after),
            )

    def write(self, step: int, metrics: Metrics) -> None:
        """Records `metrics` with every writer."""
        numbers = {name: float(value) for name, value in metrics.items()}
        for writer in self._writers:
            writer.write(step, numbers)

    def close(self) -> None:
        """Closes every writer."""
        for writer in self._writers:
            writer.close()

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """The lines that `JsonlWriter` wrote, oldest first; null becomes NaN.

    An unfinished last line (the run was killed, or is writing) is left out.

    Raises:
        ValueError: no such file, or a line that is not a JSON object, named by file and line.
    """
    rows = []
    for record in json_files.records(path, unfinished=False):
        row = record.get()
        if not isinstance(row, dict):
            raise ValueError(f"{record.where}: expected a JSON object, got {json_files.kind(row)}")
        rows.append({key: math.nan if value is None else value for key, value in row.items()})
    return rows
