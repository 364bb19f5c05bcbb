"""Whether two runs on the same problems differ: a test, not an impression.

Only the problems that one run alone has right distinguish them. McNemar's exact test asks how often
chance would share these out as unevenly; the bootstrap says how large the difference may be. "No
difference was found" is not "they are the same": that takes an interval within a margin.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

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
            wider by what the problems cannot show (see `unseen`).
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
            "would decide it."
        )

    def loss(self, first: str = "the first", second: str = "the second") -> str | None:
        """Says that the first has fewer right than the second; None where it has not.

        Args:
            first, second: what the runs are called.
        """
        if self.difference.value >= 0:
            return None
        d = self.difference
        chance = "more than chance alone" if self.p_value < SIGNIFICANT else "chance may explain it"
        return (
            f"{first} loses {-100 * d.value:.1f} points of accuracy against {second} "
            f"[{-100 * d.high:.1f}, {-100 * d.low:.1f}]: {chance} (McNemar p = {self.p_value:.2g})."
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
    # The bootstrap draws from the problems: a kind that none of them is of has no share in it.
    absent = unseen(one.size, level)
    difference = dataclasses.replace(
        difference,
        low=difference.low - (0 if only_second else absent),
        high=difference.high + (0 if only_first else absent),
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


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided p-value: a fair coin as uneven as this in so many throws.

    >>> round(mcnemar(8, 2), 3), round(mcnemar(80, 20), 9)
    (0.109, 1e-09)
    """
    throws, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(throws, heads) for heads in range(fewer + 1))
    return min(1.0, 2 * tail / 2**throws)
