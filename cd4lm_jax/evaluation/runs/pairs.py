"""Two finished runs on the same problems, read to be compared."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from cd4lm_jax.evaluation.runs import journal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One of two runs that are compared.

    Attributes:
        folder: the run's.
        correct: bool, one a problem.
        nfe: forward passes, one a problem.
    """

    folder: pathlib.Path
    correct: npt.NDArray[np.bool_]
    nfe: npt.NDArray[np.int64]


def read_pair(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> tuple[Side, Side]:
    """Two finished runs on the same problems, matched by id, in the first one's order.

    Args:
        first, second: a run's folder, or that of an evaluation that holds one run.

    Raises:
        JournalError: no such run, one that has not ended, or other problems.
    """
    folders = [run_folder(folder) for folder in (first, second)]
    lines = [{line["id"]: line for line in journal.read(folder)} for folder in folders]
    one, two = lines
    for mine, other, where in ((one, two, folders[0]), (two, one, folders[1])):
        if alone := [name for name in mine if name not in other]:
            raise journal.JournalError(
                f"not the same problems: {len(alone)} of {len(mine)} are in {where} alone, such as "
                f"{alone[0]!r}; compare runs on one task, split and number of problems"
            )
    for name in one:
        if one[name]["reference"] != two[name]["reference"]:
            raise journal.JournalError(
                f"not the same problems: {name!r} has other answers in {folders[0]} and "
                f"{folders[1]}; compare runs on one task and split"
            )
    ordered: list[list[Any]] = [[*one.values()], [two[name] for name in one]]
    sides = [
        Side(
            folder=folder,
            correct=np.array([line["correct"] for line in found], np.bool_),
            nfe=np.array([line["nfe"] for line in found]),
        )
        for folder, found in zip(folders, ordered, strict=True)
    ]
    return sides[0], sides[1]


def run_folder(folder: str | os.PathLike[str]) -> pathlib.Path:
    """The folder of a run, given itself or an evaluation that holds that run alone.

    Raises:
        JournalError: an evaluation of several runs: they are named.
    """
    runs = pathlib.Path(folder) / journal.RUNS_FOLDER
    found = sorted(file.parent for file in runs.glob(f"*/{journal.PROBLEMS_FILE}"))
    if len(found) > 1:
        names = ", ".join(repr(run.name) for run in found)
        raise journal.JournalError(
            f"{folder} holds {len(found)} runs; give one of them, as {runs}/NAME: {names}"
        )
    return found[0] if found else pathlib.Path(folder)
