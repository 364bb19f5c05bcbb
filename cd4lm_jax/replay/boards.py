"""A decode as it is shown pass by pass, on a page or a terminal: every token with what it tells."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from cd4lm_jax.decoding.reason import Reason

_SPECIAL = re.compile(r"<\|(.+)\|>")
_SHORT = {"endoftext": "EOS", "eot_id": "EOT", "mdm_mask": "MASK"}
# A model may write control characters; neither a page nor a terminal is to obey them.
CONTROL = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    **dict.fromkeys(range(0x7F, 0xA0), 0xFFFD),
}
_VISIBLE = CONTROL | str.maketrans({"\n": "\u21b5", "\t": "\u21e5", "\r": "\u21b5"})
_COMMITTED = "position {position}: committed in pass {at} of {nfe} %s, confidence {confidence}"
# What is said of a position, by why it holds what it holds; the report's script fills these in too.
TOOLTIPS = {
    Reason.TAIL: "position {position}: filled after the end, not decoded",
    Reason.RULE: _COMMITTED % "by the rule",
    Reason.MINIMUM: _COMMITTED % "to keep the least number a pass",
    Reason.LIMIT: _COMMITTED % "because its block's or row's passes were used up",
    Reason.GIVEN: "position {position}: given from the start",
}

# Confidences are mostly high: the colour scale spends its range from here to 1.
COLOUR_FLOOR = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay:
    """One problem's decode by one run. What is None is left out where the replay is shown.

    Attributes:
      tokens: [G] the text of every generated position.
      committed_at: [G] the pass that committed it, 0 where it was not decoded.
      confidence: [G] its probability in that pass.
      reason: [G] why it holds what it holds.
      nfe: forward passes of this problem.
      group: which problem it belongs to; replays of one group are shown side by side.
      question: the problem's text.
      reference: the right answer as the data set gives it.
      title: which run this is, such as "student, confidence:0.9".
      correct: whether the answer is right.
    """

    tokens: list[str]
    committed_at: list[int]
    confidence: list[float]
    reason: list[Reason]
    nfe: int
    group: str | int
    question: str | None = None
    reference: str | None = None
    title: str | None = None
    correct: bool | None = None

    def __post_init__(self) -> None:
        sizes = [
            len(values) for values in (self.tokens, self.committed_at, self.confidence, self.reason)
        ]
        if len(set(sizes)) != 1:
            raise ValueError(
                f"replay {self.title!r}: expected a token, a pass, a confidence and a reason for "
                f"every position, got {', '.join(map(str, sizes))}"
            )
        if not all(0 <= at <= self.nfe for at in self.committed_at):
            raise ValueError(
                f"replay {self.title!r}: committed_at must lie between 0 and nfe={self.nfe}, "
                f"got {min(self.committed_at)} to {max(self.committed_at)}"
            )
        if not all(math.isfinite(c) for c in self.confidence):
            raise ValueError(f"replay {self.title!r}: expected finite confidences")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """A token's text as it is shown, whether it is a special one, whether it breaks the line."""

    text: str
    special: bool
    breaks: bool

    @classmethod
    def of(cls, token: str) -> Piece:
        """What is shown of a token's text."""
        special = _SPECIAL.fullmatch(token)
        text = (_SHORT.get(special[1], special[1]) if special else token).translate(_VISIBLE)
        return cls(text=text or "\u2205", special=special is not None, breaks="\n" in token)

    @property
    def label(self) -> str:
        """The text, with something to see where it is blank."""
        return self.text if self.text.strip(" ") else "\u2423" * len(self.text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip(Piece):
    """One token of a decode as it is shown; `due` is the pass after which it is there."""

    tooltip: str
    committed_at: int
    due: int
    reason: Reason
    heat: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Board:
    """One replay as it is shown: its tokens, how many each pass committed, what was not decoded."""

    replay: Replay
    chips: list[Chip]
    bars: list[int]
    given: int
    tail: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """The boards of one problem, and the passes of the slowest of them."""

    question: str | None
    reference: str | None
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


def shown(reason: Sequence[int]) -> int:
    """How many positions are shown: all but the undecoded tail."""
    return max((at for at, why in enumerate(reason, 1) if why != Reason.TAIL), default=0)


def board(replay: Replay) -> Board:
    """What is shown of a replay; the undecoded tail is a number, not a row of chips."""
    count = shown(replay.reason)
    counts = Counter(at for at in replay.committed_at if at)
    return Board(
        replay=replay,
        chips=[_chip(replay, position) for position in range(count)],
        bars=[counts[index] for index in range(1, replay.nfe + 1)],
        given=replay.reason.count(Reason.GIVEN),
        tail=len(replay.tokens) - count,
    )


def _chip(replay: Replay, position: int) -> Chip:
    piece, reason = Piece.of(replay.tokens[position]), replay.reason[position]
    at, confidence = replay.committed_at[position], replay.confidence[position]
    return Chip(
        text=piece.text,
        special=piece.special,
        breaks=piece.breaks,
        tooltip=TOOLTIPS[reason].format(
            position=position + 1, at=at, nfe=replay.nfe, confidence=f"{confidence:.3f}"
        ),
        committed_at=at,
        due={Reason.TAIL: replay.nfe, Reason.GIVEN: 0}.get(reason, at),
        reason=reason,
        heat=min(1.0, max(0.0, (confidence - COLOUR_FLOOR) / (1 - COLOUR_FLOOR))),
    )
