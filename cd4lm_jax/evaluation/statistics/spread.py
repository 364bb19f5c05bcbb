"""Repeated timings of the same work: the median and the whole spread, not one lucky value.

Timings of a busy machine are skewed and drift, so runs that are compared are timed in turn (all of
them once, then all of them again), and ratios are taken within a turn.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """The median of several measurements, the lowest and the highest of them."""

    median: float
    low: float
    high: float
    count: int

    @property
    def interval(self) -> list[float] | None:
        """[low, high], as a row of summary.json has it; None for a single measurement."""
        return [self.low, self.high] if self.count > 1 else None


def spread(values: Sequence[float]) -> Spread:
    """The spread of positive measurements, such as seconds.

    >>> spread([2.0, 8.0, 4.0])
    Spread(median=4.0, low=2.0, high=8.0, count=3)

    Raises:
        ValueError: no value, or one that is not finite and positive.
    """
    if not values:
        raise ValueError("spread: got no measurement, expected at least one")
    for value in values:
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"spread: {value} is no measurement, expected a positive number")
    return Spread(
        median=float(statistics.median(values)),
        low=float(min(values)),
        high=float(max(values)),
        count=len(values),
    )


def ratios(first: Sequence[float], second: Sequence[float]) -> Spread:
    """The spread of first / second, turn by turn.

    >>> ratios([10.0, 30.0, 12.0], [1.0, 2.0, 1.0])
    Spread(median=12.0, low=10.0, high=15.0, count=3)

    Raises:
        ValueError: different numbers of turns, or values that `spread` refuses.
    """
    if len(first) != len(second):
        raise ValueError(
            f"ratios: got {len(first)} and {len(second)} measurements, expected one of each a turn"
        )
    spread(first), spread(second)
    return spread([a / b for a, b in zip(first, second, strict=True)])
