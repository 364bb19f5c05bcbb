"""A decode on the terminal, pass by pass, in colour.

rich is imported within the functions: most decodes are never drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.replay import chips
from cd4lm_jax.replay.chips import Chip
from cd4lm_jax.replay.replays import Replay

if TYPE_CHECKING:
    from rich.console import Console
    from rich.style import Style
    from rich.text import Text

# As on the page in light: ink, masked, and confidence from low to high.
_INK, MASK = "#1c2128", "#9aa1a9"
_LOW, _HIGH = (255, 192, 120), (183, 228, 221)


def view(replay: Replay, after: int, text: Callable[[int], str] = str) -> Text:
    """What is there after so many passes, as a rich renderable.

    Masked positions are grey blocks of the width that their token will have, so nothing moves;
    the colour is the confidence. An edited position has its first token until
    it is replaced. What the last pass committed or replaced is inverted, special tokens are dimmed,
    given ones underlined.

    Args:
        replay: one decode.
        after: passes.
        text: of a token id.
    """
    from rich.text import Text

    committed = sum(0 < at <= after for at in replay.committed_at)
    left = len(replay.tokens) - replay.shown
    tail = f", {left} position{'s' * (left > 1)} after the end" if left else ""
    view = Text().append(f"pass {after} of {replay.nfe}, {committed} committed{tail}\n", "dim")
    for chip in chips.chips(replay, text):
        shown = chip.first if chip.first is not None and after < chip.edited_at else chip
        token = f"<{shown.text}>" if shown.special else shown.text
        if chip.due > after:
            view.append(_block(token), MASK)
        else:
            view.append(token, style(chip, after))
        if chip.breaks:
            view.append("\n")
    return view


def play(
    replay: Replay,
    *,
    text: Callable[[int], str] = str,
    question: str | None = None,
    seconds: float = 0.3,
    console: Console | None = None,
) -> None:
    """Plays a decode and leaves its last state on the terminal.

    Into a file or a pipe, or where NO_COLOR is set, only the last state is printed.

    Args:
        replay: one decode.
        text: of a token id.
        question: printed before it.
        seconds: a pass.
        console: the terminal; None for standard output.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = console or Console()
    if question is not None:
        console.print(Text(question.translate(chips.CONTROL)))
    if not console.is_interactive or console.no_color:
        console.print(view(replay, replay.nfe, text))
        return
    with Live(view(replay, 0, text), console=console, auto_refresh=False) as live:
        for after in range(1, replay.nfe + 1):
            time.sleep(seconds)
            live.update(view(replay, after, text), refresh=True)


def _block(text: str) -> str:
    """A block as wide as the text; spaces stay, so that lines break where the text's do."""
    from rich.cells import cell_len

    return "".join(" " if sign == " " else "\u2591" * cell_len(sign) for sign in text)


def style(chip: Chip, after: int) -> Style:
    """The colours of a chip after so many passes."""
    from rich.color import Color
    from rich.style import Style

    if chip.reason in (Reason.TAIL, Reason.GIVEN):
        return Style(dim=chip.special or None, underline=chip.reason == Reason.GIVEN or None)
    now = after in (chip.committed_at, chip.edited_at) or None  # None leaves a style as it is
    heat = (low + (high - low) * chip.heat for low, high in zip(_LOW, _HIGH, strict=True))
    return Style(
        color=_INK, bgcolor=Color.from_rgb(*heat), dim=chip.special or None, bold=now, reverse=now
    )
