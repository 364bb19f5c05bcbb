from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.replay import terminal
from cd4lm_jax.replay.replays import Replay

# By hand: "5" is given, "+" and "=" come in pass 1, "3" and the line break in pass 2, " 8", the end
# and a sign of double width in pass 3; then a tail.
TEXTS = ["5", "+", "3", "=", " 8", "\n", "<|eot_id|>", "中", "x", "x"]
REPLAY = Replay(
    tokens=range(10),
    committed_at=[0, 1, 2, 1, 3, 2, 3, 3, 0, 0],
    confidence=[0.0, 0.9, 1.0, 0.9, 0.5, 0.8, 0.9, 0.9, 0.0, 0.0],
    reason=[Reason.GIVEN, *[Reason.RULE] * 7, *[Reason.TAIL] * 2],
    nfe=3,
)
STATES = [
    f"pass {after} of 3, {committed} committed, 2 positions after the end\n{text}"
    for after, committed, text in (
        (0, 0, "5░░░ ░░\n░░░░░░░"),
        (1, 2, "5+░= ░░\n░░░░░░░"),
        (2, 4, "5+3= ░↵\n░░░░░░░"),
        (3, 7, "5+3= 8↵\n<EOT>中"),
    )
]


def view(after: int) -> Text:
    return terminal.view(REPLAY, after, TEXTS.__getitem__)


def styles(text: Text) -> dict[str, str]:
    """The style of every span that has one, by its plain text."""
    return {text.plain[span.start : span.end]: str(span.style) for span in text.spans}


@pytest.mark.parametrize("after", range(4))
def test_shows_what_is_there_after_each_pass(after: int) -> None:
    assert view(after).plain == STATES[after]


def test_colour_is_confidence_and_the_last_pass_stands_out() -> None:
    before, after = styles(view(2)), styles(view(3))
    assert before["3"] == "bold reverse #1c2128 on #b7e4dd"  # surest, committed in pass 2
    assert after["3"] == "#1c2128 on #b7e4dd"
    assert after[" 8"] == "bold reverse #1c2128 on #ffc078"  # least sure
    assert after["<EOT>"].startswith("bold dim reverse ")
    assert view(3).style == ""  # what is dimmed is so by its own style
    assert after["5"] == before["5"] == "underline"
    assert before["░" * 5] == "#9aa1a9"


def printed(**options: object) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=80, **options)  # type: ignore[arg-type]
    terminal.play(
        REPLAY, text=TEXTS.__getitem__, question="How \x1bmany?", seconds=0, console=console
    )
    return stream.getvalue()


def test_in_a_pipe_the_last_state_is_printed_as_plain_text() -> None:
    assert printed() == f"How ␛many?\n{STATES[3]}\n"


def test_a_terminal_without_colour_gets_the_last_state_alone() -> None:
    text = printed(force_terminal=True, no_color=True)
    assert "pass 3 of 3" in text
    assert "pass 1 of 3" not in text


def test_a_terminal_sees_every_pass() -> None:
    text = printed(force_terminal=True, color_system="truecolor", _environ={"TERM": "xterm"})
    at = [text.index(f"pass {after} of 3") for after in range(4)]
    assert at == sorted(at)
    assert "\x1b[2J" not in text
