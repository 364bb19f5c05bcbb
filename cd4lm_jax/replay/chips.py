"""What is shown of a decoded position: its text, when it is there, why, and how confident.

A position is drawn as a chip: by rich on a terminal (`Chip`), by replay.js on a page. What both
need to know is said here; `FACTS` is that as JSON for the script.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.replay.replays import Replay

_SPECIAL = re.compile(r"<\|(.+)\|>")
_SHORT = {"endoftext": "EOS", "eot_id": "EOT", "mdm_mask": "MASK"}
# A model may write control characters; neither a page nor a terminal is to obey them.
CONTROL = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    **dict.fromkeys(range(0x7F, 0xA0), 0xFFFD),
}
_VISIBLE = CONTROL | str.maketrans({"\n": "\u21b5", "\t": "\u21e5", "\r": "\u21b5"})

COLOUR_FLOOR = 0.5
"""Confidences are mostly high: the colour scale spends its range from here to 1."""

_COMMITTED = "position {position}: committed in pass {at} of {nfe} %s, confidence {confidence}"
TOOLTIPS = {
    Reason.TAIL: "position {position}: filled after the end, not decoded",
    Reason.RULE: _COMMITTED % "by the rule",
    Reason.MINIMUM: _COMMITTED % "to keep the least number a pass",
    Reason.LIMIT: _COMMITTED % "because its block's or row's passes were used up",
    Reason.GIVEN: "position {position}: given from the start",
    Reason.EDITED: "position {position}: committed in pass {at} of {nfe}, replaced in pass "
    "{edited}, confidence {confidence}",
}
"""The tooltip of a position, by the reason of its token; replay.js fills in the numbers."""

FACTS: dict[str, Any] = {
    "floor": COLOUR_FLOOR,
    "reasons": [{"name": reason.name, "tooltip": TOOLTIPS[reason]} for reason in Reason],
}
"""What replay.js knows of reasons and colours; a `reason` is an index of `reasons`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenText:
    """A token's text as it is shown.

    Attributes:
        text: without control characters; the short name of a special token.
        special: whether it is a special token.
        breaks: whether the line breaks after it.
    """

    text: str
    special: bool
    breaks: bool

    @classmethod
    def of(cls, token: str) -> TokenText:
        """What is shown of a token's text."""
        special = _SPECIAL.fullmatch(token)
        text = (_SHORT.get(special[1], special[1]) if special else token).translate(_VISIBLE)
        return cls(text=text or "\u2205", special=special is not None, breaks="\n" in token)

    @property
    def label(self) -> str:
        """The text, with something to see where it is blank."""
        return self.text if self.text.strip(" ") else "\u2423" * len(self.text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip(TokenText):
    """A position as a terminal shows it.

    Attributes:
        committed_at: the pass that committed it, 0 where none did.
        due: the pass after which it is there.
        reason: why it has its token.
        heat: its confidence on the colour scale, 0 to 1.
        edited_at: the pass that last replaced it, 0 where none did.
        first: what it was before.
    """

    committed_at: int
    due: int
    reason: Reason
    heat: float
    edited_at: int = 0
    first: TokenText | None = None


def chips(replay: Replay, text: Callable[[int], str]) -> list[Chip]:
    """The chips of a replay; the undecoded tail has none.

    Args:
        replay: one decode.
        text: of a token id.
    """
    return [_chip(replay, position, text) for position in range(replay.shown)]


def _chip(replay: Replay, position: int, text: Callable[[int], str]) -> Chip:
    at, reason = replay.committed_at[position], Reason(replay.reason[position])
    heat = (replay.confidence[position] - COLOUR_FLOOR) / (1 - COLOUR_FLOOR)
    edited_at, first = 0, None
    if replay.first_tokens is not None and replay.edited_at is not None:
        edited_at = replay.edited_at[position]
        first = TokenText.of(text(replay.first_tokens[position]))
    return Chip(
        **vars(TokenText.of(text(replay.tokens[position]))),
        committed_at=at,
        due=replay.nfe if reason == Reason.TAIL else at,
        reason=reason,
        heat=min(1.0, max(0.0, heat)),
        edited_at=edited_at,
        first=first,
    )


class TextTable:
    """The texts of all tokens on a page, each once: what replay.js looks token numbers up in."""

    def __init__(self, text: Callable[[int], str]) -> None:
        """An empty table; `text` is that of a token id."""
        self._text = text
        self._places: dict[int, int] = {}

    def encode(self, replay: Replay) -> dict[str, Any]:
        """A replay as replay.js reads it, its tokens as numbers in this table.

        The undecoded tail is left out and counted as `tail`; confidences have three decimals.
        """
        count = replay.shown
        columns = {name: [*values[:count]] for name, values in replay.positions().items()}
        places = [self._places.setdefault(token, len(self._places)) for token in columns["tokens"]]
        if replay.first_tokens is not None and replay.edited_at is not None:
            first = replay.first_tokens[:count]
            columns["first"] = [self._places.setdefault(it, len(self._places)) for it in first]
            columns["edited_at"] = [*replay.edited_at[:count]]
        return columns | {
            "tokens": places,
            "confidence": [round(value, 3) for value in columns["confidence"]],
            "tail": len(replay.tokens) - count,
            "nfe": replay.nfe,
        }

    def as_json(self) -> list[list[Any]]:
        """For each number the label, whether the token is special, whether the line breaks."""
        texts = (TokenText.of(self._text(token)) for token in self._places)
        return [[text.label, int(text.special), int(text.breaks)] for text in texts]
