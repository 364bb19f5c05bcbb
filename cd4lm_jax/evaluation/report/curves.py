"""Curves of accuracy against speed: those of our evaluations, and those that others published.

A curve is one method on one task: its settings, such as thresholds, are its points. Figures that
were published stay apart from what was measured here: they carry their source, and neither kind is
ever marked as beaten by the other. Speed is counted in more than one way (see runs/speed.py),
and a point has only the counts that it was reported with.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cd4lm_jax.evaluation.report import rows as row_forms
from cd4lm_jax.evaluation.statistics import frontier
from cd4lm_jax.evaluation.statistics.aup import accuracy_under_parallelism
from cd4lm_jax.settings.config import from_plain

# The ways to count, fields of a point: tokens a pass before the end or of the whole canvas, passes.
COUNTS = ("tpf", "canvas_tpf", "nfe")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One setting of a method.

    Attributes:
        label: the setting, such as a threshold.
        accuracy: share of problems.
        accuracy_interval: its interval.
        tpf, canvas_tpf, nfe: as in a row of summary.json; None where it was not reported.
    """

    label: str = ""
    accuracy: float
    accuracy_interval: tuple[float, float] | None = None
    tpf: float | None = None
    canvas_tpf: float | None = None
    nfe: float | None = None

    def __post_init__(self) -> None:
        counts = [value for value in map(self.count, COUNTS) if value is not None]
        if not (0 <= self.accuracy <= 1 and counts and all(value > 0 for value in counts)):
            raise ValueError(
                f"expected an accuracy from 0 to 1 and a positive {', '.join(COUNTS[:-1])} or "
                f"{COUNTS[-1]}, got {self}"
            )

    def count(self, name: str) -> float | None:
        """How fast the point is by one of `COUNTS`."""
        value: float | None = getattr(self, name)
        return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """One method on one task.

    Attributes:
        name: the method.
        model: what it decodes; curves of one model share a colour. Empty for published ones.
        task: only curves of one task are compared.
        setting: lengths and the like, for people.
        points: in any order.
        source: where it was published; None for what was measured here.
    """

    name: str
    model: str = ""
    task: str
    setting: str
    points: tuple[CurvePoint, ...]
    source: str | None = None


def read_evaluation(folder: str | os.PathLike[str], label: str = "") -> list[Curve]:
    """The curves of an evaluation's summary.json, one for each model and rule.

    Args:
        folder: output of `cd4lm evaluate`.
        label: put before the names, to distinguish several evaluations.

    Raises:
        ValueError: no evaluation.
        OSError: no such file.
    """
    path = pathlib.Path(folder) / row_forms.SUMMARY_FILE
    summary = _json(path)
    try:
        rows = row_forms.of(summary)
    except ValueError as error:
        raise ValueError(f"{path}: no row of an evaluation ({error})") from error
    points: dict[tuple[str, str], list[CurvePoint]] = {}
    for row in rows:
        try:
            counts = {name: row.get(name) for name in COUNTS}
            interval = row.get("accuracy_interval")
            point = CurvePoint(
                label=row_forms.setting(row),
                accuracy=row["accuracy"],
                accuracy_interval=tuple(interval) if interval else None,
                **counts,
            )
            points.setdefault((row["model"], row_forms.series(row)), []).append(point)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: no row of an evaluation ({error}): {row}") from error
    if not points:
        raise ValueError(f"{path} has no rows, expected those of `cd4lm evaluate`")
    order = row_forms.models(rows)
    before = f"{label}: " if label else ""
    return [
        Curve(
            name=f"{before}{model}, {rule}",
            model=f"{before}{model}",
            task=str(summary.get("task") or summary.get("source") or "unnamed"),
            setting=_lengths(summary),
            points=tuple(found),
        )
        for (model, rule), found in sorted(points.items(), key=lambda kv: order.index(kv[0][0]))
    ]


def read_peers(path: str | os.PathLike[str]) -> list[Curve]:
    """Published curves from a JSON file.

    The file holds "task", "setting", "source" and "curves": each with a "name", "points" (fields of
    `CurvePoint`) and, where they differ from the file's, "setting" and "source".

    Raises:
        ValueError: not such a file.
        OSError: no such file.
    """
    file = _json(pathlib.Path(path))
    shared = {key: file.pop(key, "") for key in ("task", "setting", "source")}
    curves = []
    for number, record in enumerate(file.pop("curves", ())):
        try:
            curve = from_plain(Curve, {**shared, **record}, "curve")
            if not (curve.name and curve.task and curve.source and curve.points):
                raise ValueError("lacks a name, a task, a source or points")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, curves[{number}]: {error}") from error
        curves.append(curve)
    if file or not curves:
        raise ValueError(
            f"{path}: expected task, setting, source and a list of curves, got {sorted(file)}"
        )
    return curves


def aup(curve: Curve, curves: Sequence[Curve]) -> float | None:
    """AUP of a curve; None where no point has a TPF.

    It is relative to the best accuracy that any of `curves` has on the task at a known TPF.
    """
    points = [(point.tpf, point.accuracy) for point in curve.points if point.tpf is not None]
    if not points:
        return None
    return accuracy_under_parallelism(points, best=best(curves, curve.task))


def best(curves: Sequence[Curve], task: str) -> float:
    """What AUP on a task is relative to: the highest accuracy of the points with a TPF, or 0."""
    points = (point for curve in curves if curve.task == task for point in curve.points)
    return max((point.accuracy for point in points if point.tpf is not None), default=0.0)


def unbeaten(curves: Sequence[Curve], count: str) -> set[tuple[int, int]]:
    """The points that no other of their task and kind beats in accuracy and speed, by one count.

    Measured points are compared with measured ones, published with published.

    Returns:
        For each such point the number of its curve, and its number in that curve.
    """
    groups: dict[tuple[str, bool], list[frontier.Point]] = {}
    where: dict[str, tuple[int, int]] = {}
    for number, curve in enumerate(curves):
        for at, point in enumerate(curve.points):
            if (value := point.count(count)) is not None:
                name = f"{number} {at}"
                where[name] = number, at
                cost = value if count == "nfe" else 1 / value  # of a token: less is faster
                groups.setdefault((curve.task, curve.source is None), []).append(
                    frontier.Point(name=name, accuracy=point.accuracy, nfe=cost)
                )
    return {where[p.name] for points in groups.values() for p in frontier.pareto(points)}


def _lengths(summary: Mapping[str, Any]) -> str:
    said = (("gen_length", "{} generated"), ("block_length", "block {}"))
    return ", ".join(text.format(summary[key]) for key, text in said if summary.get(key))


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a JSON object, got a {type(data).__name__}")
    return data
