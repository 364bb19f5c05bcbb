"""One decode that is shown, and several of the same prompt side by side: data only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.decoding.trajectory import Positions, Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay(Positions[Sequence[Any]]):
    """One prompt's decode by one run. What is None is left out where the replay is shown.

    Attributes:
        tokens, committed_at, confidence, reason: G values each, see `Positions`.
        nfe: forward passes of this prompt.
        first_tokens, edited_at: of every position, see `Edits`; None where nothing is edited.
        title: which run this is, such as "student, confidence:0.9".
        correct: whether the answer is right.

    Raises:
        ValueError: fields of different lengths, a pass beyond the last, a reason that there is
            not, or a confidence that is not finite.
    """

    nfe: int
    first_tokens: Sequence[int] | None = None
    edited_at: Sequence[int] | None = None
    title: str | None = None
    correct: bool | None = None

    def __post_init__(self) -> None:
        sizes = {name: len(values) for name, values in self.positions().items()}
        if self.first_tokens is not None and self.edited_at is not None:
            sizes |= {"first_tokens": len(self.first_tokens), "edited_at": len(self.edited_at)}
        if len(set(sizes.values())) != 1:
            given = ", ".join(f"{size} {name}" for name, size in sizes.items())
            raise ValueError(
                f"{self._name}: expected a value of each for every position, got {given}"
            )
        if not all(0 <= at <= self.nfe for at in self.committed_at):
            raise ValueError(
                f"{self._name}: committed_at must be between 0 and nfe={self.nfe}, got "
                f"{min(self.committed_at)} to {max(self.committed_at)}"
            )
        if unknown := [why for why in self.reason if why not in [*Reason]]:
            raise ValueError(f"{self._name}: {unknown[0]!r} is no reason; give one of cd.Reason")
        if not all(math.isfinite(value) for value in self.confidence):
            raise ValueError(f"{self._name}: expected finite confidences")

    @property
    def _name(self) -> str:
        return "replay" if self.title is None else f"replay {self.title!r}"

    @property
    def shown(self) -> int:
        """How many positions are shown: all but the undecoded tail."""
        return max((at for at, why in enumerate(self.reason, 1) if why != Reason.TAIL), default=0)

    @classmethod
    def of(
        cls,
        trajectory: Trajectory,
        row: int,
        *,
        title: str | None = None,
        correct: bool | None = None,
    ) -> Replay:
        """The replay of one row of a trajectory."""
        columns = {name: values[row].tolist() for name, values in trajectory.positions().items()}
        if trajectory.edits is not None:
            columns["first_tokens"] = trajectory.edits.first_tokens[row].tolist()
            columns["edited_at"] = trajectory.edits.edited_at[row].tolist()
        return cls(**columns, nfe=int(trajectory.nfe[row]), title=title, correct=correct)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """The decodes of one prompt, shown side by side.

    Attributes:
        name: of the prompt, such as its number.
        replays: its decodes.
        question: the prompt's text; None shows none.
        reference: the right answer as the data set gives it; None shows none.
    """

    name: str
    replays: Sequence[Replay]
    question: str | None = None
    reference: str | None = None
