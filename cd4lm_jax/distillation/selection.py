"""Which step of a run is exported: judged by a loss, or by decoding as the student will be used."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.distillation import judging


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """What decoding the validation prompts gave at one threshold.

    Attributes:
        threshold: of CAD.
        accuracy: share of prompts that the judge calls right.
        passes: forward passes a prompt, mean.
        tpf: tokens a pass before the first end token, mean over prompts.
        exact: share of answers whose tokens are those of the reference.
        similarity: 1 less the edit distance to the reference's tokens over the longer length, mean.
    """

    threshold: float
    accuracy: float
    passes: float
    tpf: float
    exact: float
    similarity: float

    def __str__(self) -> str:
        """Accuracy, passes and threshold, for a person."""
        return f"accuracy {self.accuracy:.1%} in {self.passes:.2f} passes at {self.threshold:g}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByLoss:
    """The step of the lowest validation loss; the last one where no loss ranks the steps."""

    decodes: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByDecoding:
    """The step whose decodes of validation prompts are best: what a student is trained for.

    Every evaluation decodes the same prompts by CAD at each threshold. A step is judged by its best
    threshold: the one of the fewest passes whose accuracy is at least `min_accuracy`, or the one of
    the highest accuracy within `max_passes`. A step that reaches the bound is better than one that
    does not; of those that do not, the one that comes nearest is the best.

    Attributes:
        prompts: how many of the validation split, from its first.
        decode: how they are decoded; its rule is replaced.
        thresholds: of CAD.
        judge: what is right, see `cd4lm_jax.distillation.judging`: `number` (the final number is
            the reference's), `agreement` (the tokens are the reference's: the teacher's, where the
            rows are its own answers), or a function of a module, `my_judges:score`.
        min_accuracy: see above; None with `max_passes`.
        max_passes: likewise.

    Raises:
        ValueError: a number out of its range, a judge that is not there, or not one of the bounds.
    """

    decodes: ClassVar[bool] = True

    prompts: int = 64
    decode: DecodeConfig = DecodeConfig(batch_size=32)
    thresholds: tuple[float, ...] = (0.9,)
    judge: str = "agreement"
    min_accuracy: float | None = None
    max_passes: float | None = None

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise ValueError(f"selection.prompts={self.prompts}; give 1 or more")
        if not self.thresholds:
            raise ValueError("selection.thresholds is empty; give at least one, such as 0.9")
        if (self.min_accuracy is None) == (self.max_passes is None):
            raise ValueError(
                "selection: give either min_accuracy (the fewest passes that reach it are best) or "
                "max_passes (the highest accuracy within them is best)"
            )
        if self.min_accuracy is not None and not 0 < self.min_accuracy <= 1:
            raise ValueError(
                f"selection.min_accuracy={self.min_accuracy}; give a share above 0, at most 1"
            )
        if self.max_passes is not None and not 1 <= self.max_passes < math.inf:
            raise ValueError(f"selection.max_passes={self.max_passes}; give 1 or more")
        judging.judge(self.judge)
        _ = self.runs

    @property
    def runs(self) -> list[DecodeConfig]:
        """How the prompts are decoded, one for each threshold."""
        return [
            dataclasses.replace(self.decode, rule=ConfidenceAdaptive(threshold=threshold))
            for threshold in self.thresholds
        ]

    def best(self, points: Sequence[Point]) -> Point:
        """The threshold that a step is judged by."""
        return max(points, key=self._rank)

    def score(self, points: Sequence[Point]) -> float:
        """How good a step is, from 0 to 2, higher is better; 1 and more where it is in bounds."""
        return self._rank(self.best(points))

    def _rank(self, point: Point) -> float:
        if self.min_accuracy is not None:
            reached, within = point.accuracy >= self.min_accuracy, 1 / point.passes
            return 1 + within if reached else min(point.accuracy, self.min_accuracy) * 0.999
        assert self.max_passes is not None  # checked above
        if point.passes <= self.max_passes:
            return 1 + point.accuracy
        return self.max_passes / point.passes * 0.999


Selection = ByLoss | ByDecoding


def logged(points: Sequence[Point]) -> dict[str, float]:
    """The numbers of all thresholds by the names that metrics are logged under."""
    return {
        f"decode/{name}@{point.threshold:g}": value
        for point in points
        for name, value in dataclasses.asdict(point).items()
        if name != "threshold"
    }
