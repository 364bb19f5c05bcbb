"""One proportion, such as an accuracy, and how far it could have been off.

Wilson's score interval (Wilson, JASA 22, 1927): unlike the bootstrap and unlike the normal
approximation it has a width where all or none of the answers are right, and it covers well for few
problems (Brown, Cai and DasGupta, Statistical Science 16, 2001).
"""

from __future__ import annotations

import math
import statistics

import numpy as np
import numpy.typing as npt

from cd4lm_jax.evaluation.statistics.bootstrap import LEVEL, Estimate


def accuracy(correct: npt.ArrayLike, *, level: float = LEVEL) -> Estimate:
    """The share of right answers with its Wilson interval.

    For two runs on the same problems see `bootstrap.paired_difference` and `comparison.compare`.

    >>> estimate = accuracy([True] * 16)
    >>> estimate.value, round(estimate.low, 3), estimate.high
    (1.0, 0.806, 1.0)

    Args:
        correct: bool [N], one a problem.
        level: the interval's confidence level.

    Raises:
        ValueError: no problem, or a level outside (0, 1).
    """
    right = np.asarray(correct, dtype=bool)
    if right.ndim != 1 or not right.size:
        raise ValueError(f"accuracy: expected one value a problem, got shape {right.shape}")
    low, high = wilson(int(right.sum()), right.size, level)
    return Estimate(value=float(right.mean()), low=low, high=high)


def wilson(right: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """The bounds of Wilson's interval for `right` of `total`.

    Raises:
        ValueError: a level outside (0, 1), or counts that are no share.
    """
    if not 0 < level < 1:
        raise ValueError(f"wilson: level is {level}, expected a share such as 0.95")
    if not 0 <= right <= total or not total:
        raise ValueError(f"wilson: got {right} of {total}, expected a share of at least one")
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    share, weight = right / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / total + weight / (4 * total)) / (1 + weight)
    low = 0.0 if right == 0 else max(0.0, centre - half)
    high = 1.0 if right == total else min(1.0, centre + half)
    return low, high
