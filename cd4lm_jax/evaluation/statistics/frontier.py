"""What accuracy costs in passes: Pareto frontiers of threshold sweeps, and their comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cd4lm_jax.evaluation.statistics import bootstrap

Float64 = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One run of a sweep: its name, its accuracy (0 to 1) and its mean passes a problem."""

    name: str
    accuracy: float
    nfe: float

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Point:
        """The point of a row of summary.json."""
        return cls(name=row["name"], accuracy=float(row["accuracy"]), nfe=float(row["nfe"]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassesRatio:
    """Passes of one sweep over those of another at equal accuracy.

    Attributes:
        value: the ratio on the problems themselves.
        low, high: its interval; `high` is infinite where the first sweep misses the accuracy in too
            many resamples, `low` zero where the second does.
        reached: share of the resamples in which both sweeps reach the accuracy. Well below one, the
            accuracy is at the edge of what a sweep reaches: compare at a lower one.
    """

    value: float
    low: float
    high: float
    reached: float


def pareto(points: Iterable[Point]) -> list[Point]:
    """The points that no other beats in both accuracy and passes, fastest first.

    Along the list passes and accuracy rise strictly; of equal points the first given stays.

    >>> sweep = {"0.9": (6.0, 0.97), "0.7": (4.0, 0.95), "0.8": (5.0, 0.94)}
    >>> points = [Point(name=name, nfe=nfe, accuracy=a) for name, (nfe, a) in sweep.items()]
    >>> [point.name for point in pareto(points)]
    ['0.7', '0.9']
    """
    frontier: list[Point] = []
    for point in sorted(points, key=lambda p: (p.nfe, -p.accuracy)):
        if not frontier or point.accuracy > frontier[-1].accuracy:
            frontier.append(point)
    return frontier


def choose(points: Iterable[Point], floor: float) -> Point | None:
    """The point with the fewest passes whose accuracy is not below `floor`; None if none is.

    Of points with equally few passes, the most accurate.
    """
    good = [point for point in points if point.accuracy >= floor]
    return min(good, key=lambda p: (p.nfe, -p.accuracy), default=None)


def passes_at_accuracy(points: Iterable[Point], accuracy: float) -> float | None:
    """Mean passes needed for an accuracy, linearly interpolated along the Pareto frontier.

    None where no point reaches the accuracy. Where the fastest point already exceeds it, that
    point's passes: a frontier is not extended beyond what was run.

    >>> fast = Point(name="0.7", nfe=4, accuracy=0.95)
    >>> slow = Point(name="0.9", nfe=6, accuracy=0.97)
    >>> [passes_at_accuracy([fast, slow], accuracy) for accuracy in (0.9, 0.96, 0.98)]
    [4.0, 5.0, None]
    """
    points = list(points)
    if not points:
        return None
    passes = _passes_at(
        np.array([[point.accuracy for point in points]]),
        np.array([[point.nfe for point in points]]),
        np.array([accuracy]),
    )
    return None if np.isinf(passes[0]) else float(passes[0])


def passes_ratio_interval(
    correct: npt.ArrayLike,
    nfe: npt.ArrayLike,
    other_correct: npt.ArrayLike,
    other_nfe: npt.ArrayLike,
    *,
    accuracy: float | npt.ArrayLike,
    samples: int = bootstrap.SAMPLES,
    seed: int = 0,
    level: float = bootstrap.LEVEL,
) -> PassesRatio | None:
    """Passes of a sweep over passes of another at equal accuracy, bootstrapped over problems.

    In every resample of the problems both sweeps' frontiers are drawn anew on those problems, and
    `passes_at_accuracy` of the first is divided by that of the second.

    Several training seeds go in as a leading axis and are averaged, threshold by threshold,
    before a frontier is drawn. (Stacked as more points of one sweep, the frontier would pick the
    best seed at every accuracy, which flatters whoever has more seeds.) The interval is that of
    the problems, with the given seeds; it does not say how another seed would have done.

    Args:
        correct: [thresholds, problems] or [seeds, thresholds, problems], whether each answer of the
            first sweep is right.
        nfe: its forward passes, of the same shape.
        other_correct: the second sweep on the same problems in the same order; its thresholds and
            seeds may differ in number.
        other_nfe: its forward passes.
        accuracy: a share, or a reference run's right answers [problems], whose accuracy on the same
            resample is then asked for (such as the fixed-step teacher's).
        samples: how many resamples.
        seed: of the resampling.
        level: share of the resamples within the interval.

    Returns:
        The ratio, or None where one of the sweeps does not reach the accuracy. Resamples in which
        neither does are left out; one in which only the first (second) misses counts as infinite
        (zero).

    Raises:
        ValueError: shapes that disagree, or problems of different number.
    """
    first, second = _sweep(correct, nfe), _sweep(other_correct, other_nfe)
    reference = np.asarray(accuracy, dtype=np.float64)
    if not reference.ndim:  # as a reference run that is right by that share on every problem
        reference = np.full(first.shape[-1], reference)
    if reference.ndim != 1 or not first.shape[-1] == second.shape[-1] == reference.size:
        raise ValueError(
            "passes_ratio_interval: expected the same problems everywhere, got "
            f"{first.shape[-1]} and {second.shape[-1]}, and accuracy of shape {reference.shape}"
        )
    table = np.concatenate([*first, *second, reference[None]])
    splits = np.cumsum([first.shape[1]] * 2 + [second.shape[1]] * 2)

    def passes(means: Float64) -> tuple[Float64, Float64]:
        a_right, a_nfe, b_right, b_nfe, floor = np.split(means, splits, axis=1)
        return _passes_at(a_right, a_nfe, floor[:, 0]), _passes_at(b_right, b_nfe, floor[:, 0])

    ours, theirs = passes(table.mean(axis=1)[None])
    if np.isinf(ours[0]) or np.isinf(theirs[0]):
        return None
    a, b = passes(bootstrap.resampled_means(table, samples=samples, seed=seed))
    with np.errstate(invalid="ignore"):
        low, high = bootstrap.percentile_interval(a / b, level)
    return PassesRatio(
        value=float(ours[0] / theirs[0]),
        low=low,
        high=high,
        reached=float(np.mean(np.isfinite(a) & np.isfinite(b))),
    )


def _sweep(correct: npt.ArrayLike, nfe: npt.ArrayLike) -> Float64:
    """Right answers and passes as [2, thresholds, problems], seeds averaged."""
    right, passes = np.asarray(correct, np.float64), np.asarray(nfe, np.float64)
    if right.shape != passes.shape or right.ndim not in (2, 3) or not right.size:
        raise ValueError(
            "passes_ratio_interval: expected correct and nfe of one shape, [thresholds, problems] "
            f"or [seeds, thresholds, problems], got {right.shape} and {passes.shape}"
        )
    both = np.stack([right, passes])
    return both.mean(axis=1) if both.ndim == 4 else both


def _passes_at(accuracy: Float64, nfe: Float64, target: Float64) -> Float64:
    """`passes_at_accuracy` for R sweeps of T points at once: [R, T], [R, T], [R] -> [R].

    Infinite where the target is not reached. Vectorised, as it runs on thousands of resamples.
    """
    order = np.lexsort((-accuracy, nfe), axis=-1)
    accuracy = np.take_along_axis(accuracy, order, axis=-1)
    nfe = np.take_along_axis(nfe, order, axis=-1)
    best = np.maximum.accumulate(accuracy, axis=-1)
    # A target that is itself a mean may differ from an equal accuracy in its last bit.
    reaches = best >= target[:, None] - 1e-12
    after = reaches.argmax(axis=-1)[:, None]
    # The frontier's neighbour below: the first point that had the best accuracy before `after`.
    before_best = np.take_along_axis(best, np.maximum(after - 1, 0), axis=-1)
    before = (best >= before_best).argmax(axis=-1)[:, None]
    x0, x1 = (np.take_along_axis(nfe, i, axis=-1)[:, 0] for i in (before, after))
    y0, y1 = (np.take_along_axis(accuracy, i, axis=-1)[:, 0] for i in (before, after))
    rise = y1 - y0
    share = np.divide(target - y0, rise, out=np.ones_like(rise), where=rise > 0)
    passes = x0 + np.clip(share, 0.0, 1.0) * (x1 - x0)
    return np.where(reaches.any(axis=-1), passes, np.inf)
