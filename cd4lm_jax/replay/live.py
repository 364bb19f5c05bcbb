"""A decode that goes on, on the terminal: what is committed so far, the rest as grey blocks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.replay import terminal
from cd4lm_jax.replay.chips import COLOUR_FLOOR, Chip, TokenText

if TYPE_CHECKING:
    from rich.text import Text


@dataclasses.dataclass
class LiveDecode:
    """The canvas of one row while it is decoded.

    Attributes:
        gen_length: generated positions.
        passes: so far.
    """

    gen_length: int
    passes: int = 0

    def __post_init__(self) -> None:
        self._chips: dict[int, Chip] = {}

    def commit(
        self, position: int, text: str, *, at: int, confidence: float, reason: Reason
    ) -> None:
        """Notes what a pass committed.

        Args:
            position: within the generation.
            text: of the token, with the name of a special one.
            at: the pass.
            confidence: of the token.
            reason: why it was committed.
        """
        heat = (confidence - COLOUR_FLOOR) / (1 - COLOUR_FLOOR)
        self._chips[position] = Chip(
            **vars(TokenText.of(text)),
            committed_at=at,
            due=at,
            reason=reason,
            heat=min(1.0, max(0.0, heat)),
        )
        self.passes = max(self.passes, at)

    def view(self) -> Text:
        """What is there, as a rich renderable; the colours are those of `terminal.view`."""
        from rich.text import Text

        view = Text().append(f"pass {self.passes}, {len(self._chips)} committed\n", "dim")
        for position in range(self.gen_length):
            chip = self._chips.get(position)
            if chip is None:
                view.append("\u2591", terminal.MASK)
                continue
            shown = f"<{chip.text}>" if chip.special else chip.text
            view.append(shown, terminal.style(chip, self.passes))
            if chip.breaks:
                view.append("\n")
        return view
