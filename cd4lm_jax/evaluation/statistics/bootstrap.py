"""Bootstrap over problems: how far a number measured on N problems could have been off.

Problems are drawn with replacement (Efron, 1979); an interval holds the middle share of the
resampled values (percentile method). Everything measured on the same problems is resampled
together, so what two runs have in common (which problems are hard) cancels in a comparison.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

SAMPLES = 2_000
LEVEL = 0.95

# Draws in memory at once: some tens of megabytes whatever the number of problems.
_DRAWS = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and its interval.

    An interval of no width says that no problem differed, not that the number is exact: where
    all of N answers are right, up to about 3 / N may still be wrong in the long run.
    """

    value: float
    low: float
    high: float

    @property
    def interval(self) -> list[float]:
        """[low, high], as summary.json holds it."""
        return [self.low, self.high]


def resampled_means(values: npt.ArrayLike, *, samples: int = SAMPLES, seed: int = 0) -> Float64:
    """Means over resampled problems, float64 [samples, K].

    Args:
        values: [K, N], K quantities of the same N problems; each resample draws the same problems
            for all of them.
        samples: how many resamples.
        seed: of the numpy Generator; the same seed gives the same numbers.

    Raises:
        ValueError: no problem, a value that is not finite, or no resample.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or not table.shape[1]:
        raise ValueError(
            f"bootstrap: expected values [quantities, problems] with at least one problem, "
            f"got shape {table.shape}"
        )
    if not np.isfinite(table).all():
        raise ValueError("bootstrap: expected finite values, got NaN or infinity")
    if samples < 1:
        raise ValueError(f"bootstrap: samples is {samples}, expected at least 1")
    problems = table.shape[1]
    rng = np.random.default_rng(seed)
    means = np.empty((samples, table.shape[0]))
    chunk = max(1, _DRAWS // problems)
    for start in range(0, samples, chunk):
        rows = min(chunk, samples - start)
        drawn = rng.integers(0, problems, size=(rows, problems))
        drawn += problems * np.arange(rows)[:, None]
        # How often each problem was drawn: then all K means are one matrix product.
        counts = np.bincount(drawn.ravel(), minlength=rows * problems).reshape(rows, problems)
        means[start : start + rows] = counts @ table.T / problems
    return means


def percentile_interval(samples: npt.ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """The bounds of the middle `level` of the samples [S]; both are samples themselves.

    Infinite samples are fine (a ratio whose denominator was zero in a resample); NaN are left out.

    Raises:
        ValueError: a level outside (0, 1), or no sample but NaN.
    """
    if not 0 < level < 1:
        raise ValueError(f"bootstrap: level is {level}, expected a share such as 0.95")
    values = np.asarray(samples, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not values.size:
        raise ValueError("bootstrap: every resample was undefined, expected at least one value")
    # No interpolation between samples: it would turn infinities into NaN.
    low = np.quantile(values, (1 - level) / 2, method="lower")
    high = np.quantile(values, (1 + level) / 2, method="higher")
    return float(low), float(high)


def mean(
    values: npt.ArrayLike, *, samples: int = SAMPLES, seed: int = 0, level: float = LEVEL
) -> Estimate:
    """The mean of values [N] over problems, with its interval."""
    return _estimate(lambda m: m[:, 0], [values], samples, seed, level)


def paired_difference(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """mean(first) - mean(second), both [N] over the same problems in the same order.

    Two runs differ at this level when the interval leaves out zero.

    Raises:
        ValueError: different numbers of problems.
    """
    return _estimate(lambda m: m[:, 0] - m[:, 1], [first, second], samples, seed, level)


def paired_ratio(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """mean(first) / mean(second), both [N] over the same problems in the same order.

    A ratio of means, such as passes of one run over passes of another. The upper bound is
    infinite where the denominator is zero in too many resamples.

    Raises:
        ValueError: different numbers of problems, or a denominator that is zero throughout.
    """
    if not np.any(np.asarray(second)):
        raise ValueError("paired_ratio: the second run is zero on every problem, no ratio exists")
    return _estimate(_ratio, [first, second], samples, seed, level)


def _ratio(means: Float64) -> Float64:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(means[:, 0] / means[:, 1])


def _estimate(
    statistic: Callable[[Float64], Float64],
    runs: list[Any],
    samples: int,
    seed: int,
    level: float,
) -> Estimate:
    """A statistic of means [S, K] -> [S], on the problems themselves and on resamples of them."""
    columns = [np.asarray(run, dtype=np.float64) for run in runs]
    if any(column.shape != columns[0].shape or column.ndim != 1 for column in columns):
        raise ValueError(
            "bootstrap: expected one value a problem and the same problems in every run, got "
            f"shapes {', '.join(str(column.shape) for column in columns)}"
        )
    table = np.stack(columns)
    resampled = statistic(resampled_means(table, samples=samples, seed=seed))
    low, high = percentile_interval(resampled, level)
    return Estimate(value=float(statistic(table.mean(axis=1)[None])[0]), low=low, high=high)
