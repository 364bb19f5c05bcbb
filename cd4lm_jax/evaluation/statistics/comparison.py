"""Whether two runs on the same problems differ: a test, not an impression.

Only the problems that one run alone has right tell them apart. McNemar's exact test asks how often
chance would share these out as unevenly; the bootstrap says how large the difference may be. "No
difference was found" is not "they are the same": that takes an interval within a margin.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from cd4lm_jax.evaluation.runs import journal
from cd4lm_jax.evaluation.statistics import bootstrap

SIGNIFICANT = 0.05
"""Of McNemar's test: a difference that chance makes less often counts as one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs on the same problems.

    Attributes:
        only_first, only_second: problems that this run alone has right.
        p_value: of McNemar's exact two-sided test.
        difference: of the accuracies, first less second, with its paired bootstrap interval,
            wider by what was not seen (see :func:`unseen`).
    """

    only_first: int
    only_second: int
    p_value: float
    difference: bootstrap.Estimate

    def matches(self, margin: float) -> bool:
        """Whether the first is shown to be worse by less than a margin (non-inferiority).

        Args:
            margin: a share of problems, such as 0.01.

        Raises:
            ValueError: a margin that is no share above zero.
        """
        if not 0 < margin < 1:
            raise ValueError(f"margin={margin}; give a share of problems, such as 0.01")
        return self.difference.low > -margin

    def verdict(self, margin: float, first: str = "the first", second: str = "the second") -> str:
        """What that says, in a sentence: better, worse, a match within a margin, or nothing.

        Args:
            margin: see `matches`.
            first, second: what the runs are called.
        """
        matches, points = self.matches(margin), f"{100 * margin:.2f} points"
        worst = max(0.0, -self.difference.low)
        if self.p_value < SIGNIFICANT:
            better = self.only_first > self.only_second
            within = f", though by less than {points}" if matches and not better else ""
            how = "better" if better else "worse"
            return f"{first} is {how} than {second}{within}: chance alone would not do that."
        if matches:
            return (
                f"{first} matches {second}: no difference was found, and it is at most "
                f"{100 * worst:.2f} points worse, less than the margin of {points}."
            )
        return (
            f"It stays open whether {first} matches {second}: no difference was found, but up to "
            f"{100 * worst:.2f} points may be there, and the margin is {points}; more problems "
            "would tell."
        )

    def __str__(self) -> str:
        d = self.difference
        return (
            f"difference {d.value:+.1%} [{d.low:+.1%}, {d.high:+.1%}]; right in the first alone "
            f"{self.only_first}, in the second alone {self.only_second}; McNemar p = "
            f"{self.p_value:.3g}"
        )


def compare(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    samples: int = bootstrap.SAMPLES,
    seed: int = 0,
    level: float = bootstrap.LEVEL,
) -> Comparison:
    """Compares what two runs have right, bool [N] each, of the same problems in the same order.

    Raises:
        ValueError: no problem, or different numbers of them.
    """
    difference = bootstrap.paired_difference(
        np.asarray(first, float), np.asarray(second, float), samples=samples, seed=seed, level=level
    )
    one, two = np.asarray(first, bool), np.asarray(second, bool)
    only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
    # The bootstrap draws from what was seen: a kind of problem that none is of has no share in it.
    hidden = unseen(one.size, level)
    difference = dataclasses.replace(
        difference,
        low=difference.low - (0 if only_second else hidden),
        high=difference.high + (0 if only_first else hidden),
    )
    return Comparison(
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar(only_first, only_second),
        difference=difference,
    )


def unseen(problems: int, level: float = bootstrap.LEVEL) -> float:
    """The largest share of problems of a kind that so many do not hold one of (exact binomial).

    >>> round(unseen(500), 4)
    0.0074
    """
    return 1.0 - ((1.0 - level) / 2) ** (1 / problems)


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


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided p-value: a fair coin as uneven as this in so many throws.

    >>> round(mcnemar(8, 2), 3), round(mcnemar(80, 20), 9)
    (0.109, 1e-09)
    """
    throws, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(throws, heads) for heads in range(fewer + 1))
    return min(1.0, 2 * tail / 2**throws)
