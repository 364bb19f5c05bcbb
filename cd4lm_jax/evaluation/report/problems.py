"""The problems of an evaluation, packed for the report's browser.

A run's `problems.jsonl` is several times the size of a page that one would send, so the page holds
columns instead of records, token texts once in a table, confidences in thousandths, and all of it
as gzip in base64, which browsers unpack by themselves. Decodes pass by pass are most of it: they
are kept for the runs that matter until a budget is used up, and the page says for which.

Two runs of 1,319 problems and 256 positions of random text take 4.0 MB of a page,
a fifth of their problems.jsonl; three more runs 3.4 MB.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.replay import boards
from cd4lm_jax.replay.boards import Piece, Replay

# Positions whose decode a page holds beyond those of the baseline and of the chosen run.
BUDGET = 500_000

_SHARED = ("id", "prompt", "reference")

# What the browser fills in: one token, one bar, one tail.
_EMPTY = Replay(
    tokens=["", ""],
    committed_at=[1, 0],
    confidence=[1.0, 0.0],
    reason=[Reason.RULE, Reason.TAIL],
    nfe=1,
    group="",
    question="",
    reference="",
    title="",
    correct=True,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packed:
    """What the report's browser shows.

    Attributes:
      data: what problems.js unpacks.
      problems: how many.
      runs: names, in the order of the summary.
      replayed: names of the runs whose decodes are held pass by pass.
      stencil: an empty problem, which the browser fills in.
    """

    data: str
    problems: int
    runs: list[str]
    replayed: list[str]
    stencil: boards.Problem


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
      runs: each run's name and its problems.jsonl, one line a problem with "id", "prompt",
        "reference", "output", "correct", "nfe", "tokens" and "trajectory".
      text: of a token id.
      shown: the run that the browser opens on.
      beside: the run that it is shown beside; these two can be replayed whatever they take.
      budget: positions that the decodes of further runs may take together.

    Raises:
      ValueError: no run, no problem, a line that is not such a record, runs of different problems.
    """
    if not runs:
        raise ValueError("problems: got no run, expected at least one problems.jsonl")
    first = (shown, beside)
    pieces: dict[int, int] = {}
    shared: dict[str, list[str]] = {}
    columns: dict[str, dict[str, Any]] = {}
    replayed: list[str] = []
    for name in sorted(runs, key=lambda name: name not in first):  # stable: the rest in order
        found, column = _read(pathlib.Path(runs[name]), name)
        shared = shared or found
        if found != shared:
            raise ValueError(
                f"problems: {runs[name]} holds other problems, or in another order, than "
                f"{runs[next(iter(columns))]}; a page shows runs on the same ones"
            )
        decodes = column.pop("decodes")
        size = sum(len(tokens) for tokens, *_ in decodes)
        if name in first or size <= budget:
            budget -= 0 if name in first else size
            replayed.append(name)
            column["decodes"] = [
                [[pieces.setdefault(token, len(pieces)) for token in tokens], *rest]
                for tokens, *rest in decodes
            ]
        columns[name] = column
    texts = [Piece.of(text(token)) for token in pieces]
    page = {
        "floor": boards.COLOUR_FLOOR,
        "reasons": [[reason.name, boards.TOOLTIPS[reason]] for reason in Reason],
        "pieces": [[piece.label, int(piece.special), int(piece.breaks)] for piece in texts],
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
        stencil=boards.problems([_EMPTY])[0],
    )


def _read(path: pathlib.Path, name: str) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """A run's problems and what it made of them, as columns."""
    shared: dict[str, list[str]] = {key: [] for key in _SHARED}
    run: dict[str, Any] = {"name": name}
    run |= {key: [] for key in ("correct", "nfe", "tokens", "output", "sure", "decodes")}
    for number, record in _records(path):
        try:
            for key in _SHARED:
                shared[key].append(str(record[key]))
            for key in ("nfe", "tokens"):
                run[key].append(int(record[key]))
            run["correct"].append(int(record["correct"]))
            run["output"].append(record["output"])
            decode = _decode(record["trajectory"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}: expected a problem with its output and trajectory, got "
                f"{type(error).__name__}: {error}"
            ) from error
        run["decodes"].append(decode)
        run["sure"].append(_sureness(decode, run["tokens"][-1]))
    if not shared["id"]:
        raise ValueError(f"{path} holds no problem, expected one a line")
    return shared, run


def _records(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of a problems.jsonl with their numbers, one in memory at a time."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error


def _decode(trajectory: Mapping[str, Sequence[Any]]) -> tuple[list[int], ...]:
    """Tokens, passes, confidences in thousandths and reasons, and how long the tail left out is."""
    fields = ("tokens", "committed_at", "confidence", "reason")
    tokens, at, confidence, reason = (list(trajectory[field]) for field in fields)
    if len(lengths := {len(tokens), len(at), len(confidence), len(reason)}) != 1:
        raise ValueError(f"the trajectory's fields differ in length: {sorted(lengths)}")
    count = boards.shown(reason)
    thousandths = [round(1000 * value) for value in confidence[:count]]
    return tokens[:count], at[:count], thousandths, reason[:count], [len(tokens) - count]


def _sureness(decode: tuple[list[int], ...], tokens: int) -> int:
    """Mean confidence of the answer's tokens in thousandths; an empty answer's, of its end."""
    confidence = decode[2][: max(tokens, 1)]
    return round(sum(confidence) / len(confidence)) if confidence else 0
