"""The answer of one row as its positions are committed, and the text that is certain so far.

Positions are committed in any order; text is shown in order. So what counts is the longest prefix
without a gap. Where an answer ends early (a stop text, `max_tokens`), its passes are those after
which all of it was committed: they do not depend on when the engine reported what.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.serving.engine.job import Commit

Finish = Literal["stop", "length", "budget"]

_INCOMPLETE = "\ufffd"
"""What stands for the first bytes of a character whose others are not there yet."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What ends an answer before its row does.

    Attributes:
        tokens: at most.
        stops: texts; the answer ends before the first.
        end_ids: end tokens.
    """

    tokens: int
    stops: tuple[str, ...]
    end_ids: tuple[int, ...]


class Answer:
    """One choice of a request.

    Attributes:
        tokens: int32 `[G]`.
        committed_at: int32 `[G]`, 0 where a position is given or not committed.
        confidence: float32 `[G]`.
        finish: why it ended; None before.
        passes: forward passes so far, at the end those of the answer.
        length: tokens of the answer that are certain.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: DecodeConfig,
        limits: Limits,
        given: Sequence[int | None] = (),
    ) -> None:
        size = config.gen_length
        self.config = config
        self.tokens = np.zeros(size, np.int32)
        self.committed_at = np.zeros(size, np.int32)
        self.confidence = np.zeros(size, np.float32)
        self.finish: Finish | None = None
        self.passes = 0
        self.length = 0
        self._tokenizer = tokenizer
        self._limits = limits
        self._known = np.zeros(size, bool)
        self._text = ""
        self._searched = 0
        self._answerable = 0  # nothing before a given position is an end
        for position, token in enumerate(given):
            if token is not None:
                self.tokens[position], self._known[position] = token, True
                self._answerable = position + 1

    def add(self, event: Commit) -> None:
        """Takes what was committed; after the answer's end nothing changes it."""
        if self.finish is not None:
            return
        # The last block of a sequence may reach beyond what was asked for.
        within = event.position < len(self.tokens)
        at = event.position[within]
        self.tokens[at], self.committed_at[at] = event.tokens[within], event.committed_at[within]
        self.confidence[at], self._known[at] = event.confidence[within], True
        self.passes = event.nfe
        gaps = np.flatnonzero(~self._known)
        prefix = int(gaps[0]) if len(gaps) else len(self._known)
        ends = np.isin(self.tokens[self._answerable : prefix], self._limits.end_ids)
        found = np.flatnonzero(ends)
        end = self._answerable + int(found[0]) if len(found) else prefix
        self.length = min(end, self._limits.tokens)
        self._text = self._decode(self.length)
        if self._stopped():
            return
        if end >= self._limits.tokens and self._limits.tokens < len(self.tokens):
            self._end("length", self.length)
        elif event.finished:
            budget = len(gaps) > 0 and not len(found)
            self.finish = "stop" if len(found) else "budget" if budget else "length"

    @property
    def text(self) -> str:
        """What is certain of the answer's text, of which more only follows; at the end all."""
        if self.finish is not None:
            return self._text
        text = self._text.rstrip(_INCOMPLETE)
        held = max((_overlap(text, stop) for stop in self._limits.stops), default=0)
        return text[: len(text) - held]

    def tokens_of(self, text: str, start: int = 0) -> int:
        """How many of the answer's tokens a beginning of its text holds, from `start` on."""
        count = start
        while count < self.length and len(self._decode(count + 1)) <= len(text):
            count += 1
        return count

    def token_text(self, position: int) -> str:
        """The token at a position."""
        return self._tokenizer.decode_one(int(self.tokens[position]))

    def _decode(self, count: int) -> str:
        return self._tokenizer.decode(self.tokens[:count].tolist())

    def _stopped(self) -> bool:
        """Whether a stop text has appeared; then the answer ends before it."""
        stops = self._limits.stops
        if not any(stop in self._text for stop in stops):
            self._searched = self.length
            return False
        # Token by token: which stop comes first must not depend on how many came at once.
        for count in range(self._searched + 1, self.length + 1):
            text = self._decode(count)
            places = [place for stop in stops if (place := text.find(stop)) >= 0]
            if places:
                self._text = text[: min(places)]
                self._end("stop", count)
                return True
        return False

    def _end(self, why: Finish, count: int) -> None:
        self.finish, self.length = why, count
        self.passes = int(self.committed_at[:count].max(initial=0))


def _overlap(text: str, stop: str) -> int:
    """The longest end of a text with which a stop text may begin."""
    return next(
        (n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0
    )
