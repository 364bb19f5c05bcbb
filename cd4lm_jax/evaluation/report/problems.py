"""The problems of an evaluation, packed for the report's browser.

A run's `problems.jsonl` is several times the size of a page that one would send, so the page holds
columns instead of records, token texts once in a table, confidences with three decimals, and all of
it as gzip in base64, which browsers unpack by themselves. Decodes pass by pass are most of it: they
are kept for the runs that matter until a budget is used up, and the page says for which.

Two runs of 1,319 problems and 256 positions of random text take 4 to 7 MB of a page, a fifth to a
third of their problems.jsonl.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from cd4lm_jax.evaluation.runs import journal
from cd4lm_jax.replay import chips
from cd4lm_jax.replay.replays import Replay

BUDGET = 500_000
"""Positions whose decode a page holds beyond those of the baseline and of the chosen run."""

_SHARED = ("id", "prompt", "reference")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packed:
    """What the report's browser shows.

    Attributes:
        data: what problems.js unpacks.
        problems: how many.
        runs: names, in the order of the summary.
        replayed: names of the runs whose decodes can be replayed.
    """

    data: str
    problems: int
    runs: list[str]
    replayed: list[str]


def pack(
    runs: Mapping[str, str | os.PathLike[str]],
    *,
    text: Callable[[int], str],
    shown: str,
    beside: str | None = None,
    budget: int = BUDGET,
) -> Packed:
    """Packs the problems of several runs of one evaluation.

    Args:
        runs: each run's name and its problems.jsonl (see `cd4lm_jax.evaluation.runs.journal`).
        text: of a token id.
        shown: the run that the browser opens on.
        beside: the run that it is shown beside; these two can be replayed whatever they take.
        budget: positions that the decodes of further runs may take together.

    Raises:
        ValueError: no run, no problem, a line that is not such a record, runs of different
            problems.
    """
    if not runs:
        raise ValueError("problems: got no run, expected at least one problems.jsonl")
    first = (shown, beside)
    table = chips.TextTable(text)
    shared: dict[str, list[str]] = {}
    columns: dict[str, dict[str, Any]] = {}
    replayed: list[str] = []
    for name in sorted(runs, key=lambda name: name not in first):  # stable: the rest in order
        found, column, replays = _read(pathlib.Path(runs[name]), name)
        shared = shared or found
        if found != shared:
            raise ValueError(
                f"problems: {runs[name]} holds other problems, or in another order, than "
                f"{runs[next(iter(columns))]}; a page shows runs on the same ones"
            )
        size = sum(replay.shown for replay in replays)
        if name in first or size <= budget:
            budget -= 0 if name in first else size
            replayed.append(name)
            column["replays"] = [table.encode(replay) for replay in replays]
        columns[name] = column
    page = {
        "facts": chips.FACTS,
        "texts": table.as_json(),
        "problems": shared,
        "runs": [columns[name] for name in runs],
        "shown": list(runs).index(shown),
        "beside": None if beside is None else list(runs).index(beside),
    }
    compact = json.dumps(page, separators=(",", ":"), allow_nan=False).encode()
    return Packed(
        data=base64.b64encode(gzip.compress(compact, mtime=0)).decode(),
        problems=len(shared["id"]),
        runs=list(runs),
        replayed=[name for name in runs if name in replayed],
    )


def _read(
    path: pathlib.Path, name: str
) -> tuple[dict[str, list[str]], dict[str, Any], list[Replay]]:
    """A run's problems, its outcomes as columns, and its decodes."""
    shared: dict[str, list[str]] = {key: [] for key in _SHARED}
    columns: dict[str, list[Any]] = {
        key: [] for key in ("correct", "nfe", "length", "output", "confidence")
    }
    run: dict[str, Any] = {"name": name, **columns}
    replays = []
    for _, record in journal.records(path):
        for key in _SHARED:
            shared[key].append(str(record[key]))
        for key in ("nfe", "length", "correct", "output"):
            run[key].append(record[key])
        replay = Replay(**record["trajectory"], nfe=record["nfe"])
        replays.append(replay)
        run["confidence"].append(_mean_confidence(replay, run["length"][-1]))
    if not shared["id"]:
        raise ValueError(f"{path} holds no problem, expected one a line")
    return shared, run, replays


def _mean_confidence(replay: Replay, length: int) -> float:
    """Mean confidence of the answer's tokens; an empty answer's, of its end."""
    values = replay.confidence[: min(max(length, 1), replay.shown)]
    return round(sum(values) / len(values), 3) if values else 0.0
