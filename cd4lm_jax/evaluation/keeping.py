"""Which of a model's answers are kept to distil on; all of them have to end.

Answers to chats have no reference that could say what is right. What a model is sure of, or says
again when it is decoded otherwise, is what a student can learn to say in fewer passes.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from cd4lm_jax.decoding import agreement
from cd4lm_jax.decoding.rule import Rule, check_bounds
from cd4lm_jax.decoding.rules import FixedStep
from cd4lm_jax.decoding.trajectory import Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Right:
    """Answers whose final number is the reference's, as GSM8K is judged."""

    judged: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confident:
    """Answers whose tokens were committed with confidence, whatever the question.

    Attributes:
        least: mean probability of an answer's tokens, its end token among them, when they were
            committed; 0 keeps every answer that ends.
    """

    judged: ClassVar[bool] = False

    least: float = 0.9

    def __post_init__(self) -> None:
        check_bounds("keep.least", self.least, 0.0, 1.0, "a mean probability")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreeing:
    """Answers that a second decode of the same questions gives too.

    Attributes:
        rule: of the second decode; the default commits one token a pass.
        least: similarity of the two, 1 less the edit distance of their tokens over the longer
            length; 1 keeps equal answers alone.
    """

    judged: ClassVar[bool] = False

    rule: Rule = FixedStep()
    least: float = 1.0

    def __post_init__(self) -> None:
        check_bounds("keep.least", self.least, 0.0, 1.0, "a similarity")


def ended(decoded: Trajectory) -> npt.NDArray[np.bool_]:
    """Which answers have an end token, bool `[prompts]`."""
    return decoded.length < decoded.gen_length


def confidence(decoded: Trajectory) -> npt.NDArray[np.float64]:
    """Mean probability of each answer's tokens up to its end token, float64 `[prompts]`."""
    place = np.arange(decoded.gen_length)
    said = (place <= decoded.length[:, None]) & (decoded.committed_at > 0)
    total = np.where(said, decoded.confidence.astype(np.float64), 0.0).sum(axis=1)
    return total / np.maximum(said.sum(axis=1), 1)


def similarity(first: Trajectory, second: Trajectory) -> npt.NDArray[np.float64]:
    """How alike two decodes of the same prompts are, float64 `[prompts]`, 1 where equal."""
    pairs = zip(_answers(first), _answers(second), strict=True)
    return np.array([agreement.similarity(one, other) for one, other in pairs])


def _answers(decoded: Trajectory) -> list[list[int]]:
    lengths = decoded.length.tolist()
    return [row[:n].tolist() for row, n in zip(decoded.tokens, lengths, strict=True)]
