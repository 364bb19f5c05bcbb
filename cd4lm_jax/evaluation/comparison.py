"""Whether two runs on the same problems differ: a test, not an impression.

Only the problems that one run alone has right tell them apart. McNemar's exact test asks how often
chance would share these out as unevenly; the bootstrap says how large the difference may be. "No
difference was found" is not "they are the same": that takes an interval within a margin.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from cd4lm_jax.evaluation import bootstrap


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs on the same problems.

    Attributes:
        only_first, only_second: problems that this run alone has right.
        p_value: of McNemar's exact two-sided test.
        difference: of the accuracies, first less second, with its paired bootstrap interval.
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
    return Comparison(
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar(only_first, only_second),
        difference=difference,
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided p-value: a fair coin as uneven as this in so many throws.

    >>> round(mcnemar(8, 2), 3), round(mcnemar(80, 20), 9)
    (0.109, 1e-09)
    """
    throws, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(throws, heads) for heads in range(fewer + 1))
    return min(1.0, 2 * tail / 2**throws)
