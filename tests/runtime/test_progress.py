from __future__ import annotations

import io
from typing import Any

from cd4lm_jax.runtime.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(stream: io.StringIO, *, steps: int, seconds_a_step: float, **options: Any) -> list[str]:
    clock = Clock()
    with Progress(steps, stream=stream, clock=clock, **options) as progress:
        for step in range(1, steps + 1):
            clock.now += seconds_a_step
            progress.update(step, {"loss": 1 / step, "kl": 0.25})
    return stream.getvalue().splitlines()


def test_log_has_first_and_last_and_one_line_every_few_seconds() -> None:
    lines = run(io.StringIO(), steps=100, seconds_a_step=0.5, label="distill", log_seconds=10)
    shown = [line.split()[1] for line in lines]
    assert shown == ["1/100", "21/100", "41/100", "61/100", "81/100", "100/100"]
    assert lines[0] == "distill 1/100  loss 1  kl 0.25"
    assert lines[1] == "distill 21/100  loss 0.04762  kl 0.25  2 steps/s  ETA 0:40"
    assert lines[-1].endswith("ETA 0:00")


def test_slow_steps_are_told_in_seconds_a_step() -> None:
    lines = run(io.StringIO(), steps=3, seconds_a_step=90, unit="problem")
    assert lines[1] == "train 2/3  loss 0.5  kl 0.25  90 s/problem  ETA 1:30"


def test_rate_counts_from_the_first_update_and_follows_changes() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(10_000, stream=stream, clock=clock, log_seconds=0)
    clock.now += 600  # compiling
    for step in range(1, 11):
        clock.now += 1
        progress.update(step)
    assert "1 steps/s" in stream.getvalue().splitlines()[-1]
    for step in range(11, 1011):
        clock.now += 0.1
        progress.update(step)
    assert "10 steps/s" in stream.getvalue().splitlines()[-1]


def test_resumed_run_counts_only_its_own_steps() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(1000, stream=stream, clock=clock, log_seconds=0)
    for step in (901, 902):
        clock.now += 1
        progress.update(step)
    assert stream.getvalue().splitlines()[-1] == "train 902/1000  1 steps/s  ETA 1:38"


def test_terms_are_not_read_when_nothing_is_shown() -> None:
    class Counted:
        reads = 0

        def __float__(self) -> float:
            Counted.reads += 1
            return 1.0

    clock = Clock()
    progress = Progress(100, stream=io.StringIO(), clock=clock, log_seconds=10)
    for step in range(1, 50):
        progress.update(step, {"loss": Counted()})
    assert Counted.reads == 1


def test_terminal_shows_the_same_content_in_a_bar() -> None:
    stream = Terminal()
    run(stream, steps=4, seconds_a_step=0.5, label="distill")
    shown = stream.getvalue()
    for part in ("distill", "4/4", "loss 0.25", "2 steps/s", "ETA 0:00", "\r"):
        assert part in shown


def test_duration() -> None:
    assert [duration(s) for s in (0.4, 75, 3700)] == ["0:00", "1:15", "1:01:40"]


def test_tokens_a_second_and_lines_of_text() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(10, stream=stream, clock=clock, log_seconds=0)
    progress.say("data: 5 rows")
    for step in range(1, 4):
        clock.now += 2
        progress.count(3000)
        progress.update(step)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "data: 5 rows"
    assert "s/step  1,500 tokens/s  ETA" in lines[-1]
    terminal = Terminal()
    with Progress(2, stream=terminal) as shown:
        shown.say("data: [5] rows")
        shown.update(1)
    assert "data: [5] rows" in terminal.getvalue()
    quiet = io.StringIO()
    Progress(2, stream=quiet, quiet=True).say("data")
    assert not quiet.getvalue()
