"""Output into a pipe that nobody reads any more, as `cd4lm ... | head` leaves it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

EXIT_CODE = 141
"""As a shell has it for a process that SIGPIPE ended: 128 + 13."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it a reader that has left ends the process, without a traceback."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here: what the interpreter finds at its end it prints
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_CODE)
