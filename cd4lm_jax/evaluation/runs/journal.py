"""A run's problems.jsonl: a line a problem, written as they are answered, whole after a kill.

    FOLDER/problems.jsonl   {"id", "prompt", "reference", "output", "correct", "nfe", "length",
                             "trajectory": the fields of `cd4lm_jax.decoding.trajectory.Positions`}
    FOLDER/run.json         the settings that the lines follow from, where they were decoded, and
                            in the end their time

Problems are decoded a chunk at a time, and a chunk is on the disk before the next one begins. What
a kill leaves of a chunk is dropped and decoded anew, from the same place with the same neighbours,
so that an interrupted run ends with the bytes of one that was not.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.decoding.trajectory import POSITION_TYPES, Trajectory
from cd4lm_jax.evaluation.runs.chunks import ChunkedLines, differences
from cd4lm_jax.runtime import cluster, files

PROBLEMS_FILE = "problems.jsonl"
RUN_FILE = "run.json"
RUNS_FOLDER = "runs"
"""Of an evaluation's folder: what holds a folder a run."""
_KEYS = {
    **dict.fromkeys(("id", "prompt", "reference", "output"), str),
    "correct": bool,
    "nfe": int,
    "length": int,
    "trajectory": dict,
}


class JournalError(ValueError):
    """A run's folder that holds another run, none that is whole, or a damaged line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """What came of problems, in their order.

    Attributes:
        outputs: the answers as text.
        correct: bool, one a problem.
        trajectory: one row a problem.
    """

    outputs: list[str]
    correct: npt.NDArray[np.bool_]
    trajectory: Trajectory

    @classmethod
    def concatenate(cls, parts: Sequence[Answers]) -> Answers:
        """One of several, in their order."""
        return cls(
            outputs=[output for part in parts for output in part.outputs],
            correct=np.concatenate([part.correct for part in parts]),
            trajectory=Trajectory.concatenate(part.trajectory for part in parts),
        )


class Journal:
    """The lines of one run while it is written.

    Attributes:
        count: problems that are on the disk.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        settings: Mapping[str, Any],
        *,
        total: int,
        chunk: int,
        environment: Mapping[str, Any],
    ) -> None:
        """Opens the run of a folder, or begins it.

        Args:
            folder: the run's folder.
            settings: what the lines follow from, as JSON knows it.
            total: problems of the run.
            chunk: problems decoded together.
            environment: what they are decoded on, as JSON knows it.

        Raises:
            JournalError: the folder holds a run of other settings, or a damaged line.
        """
        self._path = pathlib.Path(folder)
        mine = {**settings, "problems": total, "chunk": chunk}
        self._record: dict[str, Any] = {"settings": mine, "environments": []}
        if (self._path / RUN_FILE).is_file():
            self._record = _same(self._path, mine)
        self._lines = ChunkedLines(self._path / PROBLEMS_FILE, total=total, chunk=chunk)
        self._earlier = self._read()
        self.count = self._lines.count
        if self.count < total and environment not in self._record["environments"]:
            self._record["environments"].append(dict(environment))
            self._write_record()

    @property
    def time(self) -> dict[str, Any] | None:
        """`seconds` of decoding and the `process` that measured them.

        None where the run has not ended, or not in the process that began it.
        """
        return self._record.get("time")

    @property
    def environments(self) -> list[dict[str, Any]]:
        """What the problems were decoded on, first to last."""
        found: list[dict[str, Any]] = self._record["environments"]
        return found

    def earlier(self) -> Answers | None:
        """What was on the disk when the journal was opened."""
        return self._earlier

    @property
    def scattered(self) -> bool:
        """Whether chunks are there that come after a missing one."""
        return self._lines.scattered

    def missing(self, *, together: bool = False) -> list[int]:
        """The chunks that this process is to decode, see `ChunkedLines`."""
        return self._lines.missing(together=together)

    def append(
        self, problems: Sequence[Problem], answers: Answers, number: int | None = None
    ) -> None:
        """Adds a chunk; it is with the operating system on return.

        Args:
            problems: of the chunk.
            answers: to them.
            number: of the chunk, from 0; the next one if None.

        Raises:
            OSError: the disk is full.
        """
        records = answers.trajectory.to_json()
        rows = zip(problems, answers.outputs, answers.correct, records, strict=True)
        lines = [
            json.dumps(
                {
                    "id": problem["id"],
                    "prompt": problem["question"],
                    "reference": problem["answer"],
                    "output": output,
                    "correct": bool(correct),
                    "nfe": record["nfe"],
                    "length": record["length"],
                    "trajectory": {name: record[name] for name in POSITION_TYPES},
                },
                allow_nan=False,
            )
            for problem, output, correct, record in rows
        ]
        self._lines.append(self._lines.written if number is None else number, lines)
        self.count += len(lines)

    def gathered(self) -> Answers:
        """All answers, once every host has come here.

        Raises:
            JournalError: a damaged line.
        """
        self._lines.gather()
        found = self._read()
        assert found is not None  # a run has problems
        return found

    def timed(self, time: Mapping[str, Any]) -> None:
        """Ends a run that one process decoded all of, and that says how long it took."""
        self._record["time"] = dict(time)
        self._write_record()

    def _read(self) -> Answers | None:
        file = self._lines.path
        found = [record for _, record in records(file)]
        try:
            return answers_of(found) if found else None
        except ValueError as error:
            raise JournalError(f"{file} is of no single run ({error})") from None

    def _write_record(self) -> None:
        if not cluster.is_main():
            return
        files.write_text(self._path / RUN_FILE, json.dumps(self._record, indent=2) + "\n")


def answers_of(records: Sequence[Mapping[str, Any]]) -> Answers:
    """The answers that lines of problems.jsonl hold."""
    return Answers(
        outputs=[record["output"] for record in records],
        correct=np.array([record["correct"] for record in records], np.bool_),
        trajectory=Trajectory.from_json({**record["trajectory"], **record} for record in records),
    )


def records(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole lines of a problems.jsonl with their numbers from 1, one in memory at a time.

    Raises:
        JournalError: a line that holds no problem; names file and line.
        FileNotFoundError: no such file.
    """
    with pathlib.Path(path).open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.endswith(b"\n"):
                yield number, _record(path, number, line)


def read(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a run that is whole.

    Raises:
        JournalError: no run there, one that has not ended, or a damaged line.
    """
    path = pathlib.Path(folder)
    try:
        total = _run_record(path)["settings"]["problems"]
        found = [record for _, record in records(path / PROBLEMS_FILE)]
    except FileNotFoundError as error:
        raise JournalError(
            f"no run in {folder}: {pathlib.Path(error.filename).name} is missing; give a folder "
            "such as OUTPUT/runs/NAME of an evaluation"
        ) from None
    if len(found) < total:
        raise JournalError(
            f"{folder} has {len(found):,} of {total:,} problems; let `cd4lm evaluate` end first"
        )
    return found


def _record(path: str | os.PathLike[str], number: int, line: bytes) -> dict[str, Any]:
    """A line of problems.jsonl; an editor may have put a byte-order mark before the first."""
    try:
        record = json.loads(line.decode("utf-8-sig"))
        if not isinstance(record, dict):
            raise ValueError(f"it is a {type(record).__name__}")
        if missing := [key for key in _KEYS if key not in record]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        if odd := [key for key, kind in _KEYS.items() if not isinstance(record[key], kind)]:
            raise ValueError(f"{odd[0]} is {record[odd[0]]!r}")
        Trajectory.from_json([{**record["trajectory"], **record}])
    except (ValueError, TypeError, RecursionError) as error:
        raise JournalError(
            f"{path}, line {number} holds no problem of an evaluation ({error}); remove that line "
            "and all after it, and `cd4lm evaluate` decodes these problems anew"
        ) from None
    return record


def _run_record(folder: pathlib.Path) -> dict[str, Any]:
    """What run.json holds."""
    file = folder / RUN_FILE
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8-sig"))
        if not isinstance(record["settings"]["problems"], int):
            raise ValueError(f"problems is {record['settings']['problems']!r}")
        if not isinstance(record["environments"], list):
            raise ValueError(f"environments is {record['environments']!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise JournalError(f"{file} is of no run of `cd4lm evaluate` ({error!r})") from None
    return record


def _same(folder: pathlib.Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json holds, if it is of these settings."""
    record = _run_record(folder)
    if different := differences(settings, record["settings"]):
        raise JournalError(
            f"{folder} holds a run of other settings ({', '.join(different)} differ); give another "
            "output, or remove that folder"
        )
    return record
