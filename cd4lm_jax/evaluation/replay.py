"""A decode as the report shows it pass by pass: every token with its pass and confidence."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable

from cd4lm_jax.decoding.trajectory import Trajectory

_SPECIAL = re.compile(r"<\|(.+)\|>")
_SHORT = {"endoftext": "EOS", "eot_id": "EOT", "mdm_mask": "MASK"}
_VISIBLE = str.maketrans({"\n": "\u21b5", "\t": "\u21e5", "\r": "\u21b5"})

# Confidences are mostly high: the colour scale spends its range from here to 1.
COLOUR_FLOOR = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay:
    """One problem's decode by one run.

    Attributes:
      question: the problem's text.
      reference: the right answer as the data set gives it.
      title: which run this is, such as "student, confidence:0.9".
      tokens: [G] the text of every generated position.
      committed_at: [G] the pass that committed it, 0 where it was filled after the end.
      confidence: [G] its probability in that pass.
      nfe: forward passes of this problem.
      correct: whether the answer is right.
      group: which problem it belongs to; replays of one group are shown side by side.
    """

    question: str
    reference: str
    title: str
    tokens: list[str]
    committed_at: list[int]
    confidence: list[float]
    nfe: int
    correct: bool
    group: str | int

    def __post_init__(self) -> None:
        sizes = {len(self.tokens), len(self.committed_at), len(self.confidence)}
        if len(sizes) != 1:
            raise ValueError(
                f"replay {self.title!r}: expected a token, a pass and a confidence for every "
                f"position, got {len(self.tokens)}, {len(self.committed_at)} and "
                f"{len(self.confidence)}"
            )
        if not all(0 <= at <= self.nfe for at in self.committed_at):
            raise ValueError(
                f"replay {self.title!r}: committed_at must lie between 0 and nfe={self.nfe}, "
                f"got {min(self.committed_at)} to {max(self.committed_at)}"
            )
        if not all(math.isfinite(c) for c in self.confidence):
            raise ValueError(f"replay {self.title!r}: expected finite confidences")

    @classmethod
    def from_trajectory(
        cls,
        trajectory: Trajectory,
        row: int,
        *,
        text: Callable[[int], str],
        question: str,
        reference: str,
        title: str,
        correct: bool,
        group: str | int,
    ) -> Replay:
        """The replay of one row of a trajectory; `text` gives the text of a single token id."""
        return cls(
            question=question,
            reference=reference,
            title=title,
            tokens=[text(int(token)) for token in trajectory.tokens[row]],
            committed_at=trajectory.committed_at[row].tolist(),
            confidence=trajectory.confidence[row].tolist(),
            nfe=int(trajectory.nfe[row]),
            correct=bool(correct),
            group=group,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One token on the page."""

    text: str
    tooltip: str
    committed_at: int
    heat: float
    special: bool
    breaks: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Board:
    """One replay on the page: its tokens, how many each pass committed, and what was left out."""

    replay: Replay
    chips: list[Chip]
    bars: list[int]
    tail: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """The boards of one problem, and the passes of the slowest of them."""

    question: str
    reference: str
    passes: int
    boards: list[Board]


def problems(replays: Iterable[Replay]) -> list[Problem]:
    """Replays grouped by problem, in the order in which the problems first appear."""
    groups: dict[str | int, list[Replay]] = {}
    for replay in replays:
        groups.setdefault(replay.group, []).append(replay)
    return [
        Problem(
            question=group[0].question,
            reference=group[0].reference,
            passes=max(replay.nfe for replay in group),
            boards=[board(replay) for replay in group],
        )
        for group in groups.values()
    ]


def board(replay: Replay) -> Board:
    """What the page shows of a replay; the undecoded tail is a number, not a row of chips."""
    shown = len(replay.tokens)
    while shown and replay.committed_at[shown - 1] == 0:
        shown -= 1
    chips = [
        _chip(token, position, at, confidence, replay.nfe)
        for position, (token, at, confidence) in enumerate(
            zip(replay.tokens, replay.committed_at, replay.confidence, strict=True), start=1
        )
    ]
    counts = Counter(at for at in replay.committed_at if at)
    return Board(
        replay=replay,
        chips=chips[:shown],
        bars=[counts[index] for index in range(1, replay.nfe + 1)],
        tail=len(replay.tokens) - shown,
    )


def _chip(token: str, position: int, at: int, confidence: float, nfe: int) -> Chip:
    special = _SPECIAL.fullmatch(token)
    text = _SHORT.get(special[1], special[1]) if special else token.translate(_VISIBLE)
    if not text.strip(" "):
        text = "\u2423" * len(text) or "\u2205"
    how = (
        f"committed in pass {at} of {nfe}, confidence {confidence:.3f}"
        if at
        else "filled after the end, not decoded"
    )
    return Chip(
        text=text,
        tooltip=f"position {position}: {how}",
        committed_at=at,
        heat=min(1.0, max(0.0, (confidence - COLOUR_FLOOR) / (1 - COLOUR_FLOOR))),
        special=special is not None,
        breaks="\n" in token,
    )
