"""How far long work is: a live bar on a terminal, plain lines in a log, with the same content."""

from __future__ import annotations

import collections
import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import SupportsFloat, TextIO

REFRESH_SECONDS = 0.2  # of the bar on a terminal
WINDOW_SECONDS = 30.0  # over which the rate is taken


class Progress:
    """Shows steps done, loss terms, rate and time left.

    The rate counts from the first update, so compiling the first step does not spoil it, and
    over the last 30 seconds, so it follows what happens now.

    ```python
    with Progress(1000, label="distill") as progress:
        for step in range(1000):
            ...
            progress.update(step + 1, {"loss": loss})
    ```
    """

    def __init__(
        self,
        total: int,
        *,
        label: str = "train",
        unit: str = "step",
        log_seconds: float = 10.0,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares the display; nothing is shown before the first update.

        Args:
            total: steps in all.
            label: what is going on, in a word.
            unit: what a step is called, in the singular.
            log_seconds: between two lines where there is no terminal.
            quiet: show nothing: of several hosts one shows progress for all.
            stream: where to show it, stderr when None.
            clock: seconds from any fixed moment.
        """
        self._total, self._label, self._unit = total, label, unit
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._quiet = quiet
        live = self._stream.isatty() and not quiet
        self._live = _Bar(total, label, self._stream) if live else None
        self._every = REFRESH_SECONDS if self._live else log_seconds
        self._shown_at = -math.inf
        self._tokens = 0
        self._seen: collections.deque[tuple[float, int, int]] = collections.deque()

    def say(self, line: str) -> None:
        """Shows a line of text, above the bar on a terminal."""
        if self._quiet:
            return
        if self._live:
            self._live.say(line)
        else:
            print(line, file=self._stream, flush=True)

    def count(self, tokens: int) -> None:
        """Tells that so many tokens more were worked on; the next update shows their rate."""
        self._tokens += tokens

    def update(self, step: int, terms: Mapping[str, SupportsFloat] | None = None) -> None:
        """Tells that `step` steps of the total are done.

        Args:
            step: steps done, not the index of the last one.
            terms: numbers to show. They are read only when something is shown, so arrays that a
              device still computes are not waited for at every step.
        """
        if self._quiet:
            return
        now = self._clock()
        self._seen.append((now, step, self._tokens))
        while len(self._seen) > 2 and now - self._seen[1][0] > WINDOW_SECONDS:
            self._seen.popleft()
        if step < self._total and now - self._shown_at < self._every:
            return
        self._shown_at = now
        numbers = "  ".join(f"{k} {float(v):.4g}" for k, v in (terms or {}).items())
        details = "  ".join(part for part in (numbers, self._speed(step)) if part)
        if self._live:
            self._live.show(step, details)
        else:
            print(f"{self._label} {step}/{self._total}  {details}".rstrip(), file=self._stream)
            self._stream.flush()

    def close(self) -> None:
        """Leaves the last state on the terminal and ends the display."""
        if self._live:
            self._live.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _speed(self, step: int) -> str:
        (start, first, before), (end, last, tokens) = self._seen[0], self._seen[-1]
        if end <= start or last <= first:
            return ""
        rate = (last - first) / (end - start)
        per = f"{rate:.3g} {self._unit}s/s" if rate >= 1 else f"{1 / rate:.3g} s/{self._unit}"
        if tokens > before:
            per = f"{per}  {(tokens - before) / (end - start):,.0f} tokens/s"
        return f"{per}  ETA {duration((self._total - step) / rate)}"


def duration(seconds: float) -> str:
    """Seconds as people read them.

    >>> duration(75), duration(3700)
    ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Bar:
    """The live bar. rich is imported here: bare accelerator images have no terminal and no rich."""

    def __init__(self, total: int, label: str, stream: TextIO) -> None:
        import rich.console
        import rich.progress as bars

        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=24),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[details]}"),
            console=rich.console.Console(file=stream),
            auto_refresh=False,
        )
        self._task = self._bars.add_task(label, total=total, details="")
        self._bars.start()

    def say(self, line: str) -> None:
        self._bars.console.print(line, markup=False, highlight=False)

    def show(self, step: int, details: str) -> None:
        self._bars.update(self._task, completed=step, details=details, refresh=True)

    def close(self) -> None:
        self._bars.stop()
