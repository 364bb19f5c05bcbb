"""SIGTERM and Ctrl-C as requests: the run finishes its step, saves and leaves with a code.

A second signal leaves at once, which costs the steps since the last checkpoint and nothing else:
whatever is on the disk is as whole as after a power cut. Work that is kept as it goes has nothing
to save and leaves at the first (`leaving_at_once`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType

EXIT_CODES = {
    # "Try again later" of sysexits.h: distinguishes it from 143, killed with nothing saved.
    signal.SIGTERM: 75,
    signal.SIGINT: 130,
}


class Interrupted(Exception):
    """A run that was asked to stop and saved what it had; one line."""

    def __init__(self, number: int, message: str) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"{self.signal.name}: {message}")

    @property
    def exit_code(self) -> int:
        """What the command leaves with."""
        return EXIT_CODES[self.signal]


class StopRequest:
    """Which signal asked to stop.

    Attributes:
        number: the signal's; 0 while there was none.
    """

    number = 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.number:
            os._exit(128 + number)
        self.number = number
        name = signal.Signals(number).name
        print(
            f"\n{name}: saving a checkpoint after this step; a second signal leaves at once",
            file=sys.stderr,
            flush=True,
        )


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within it SIGTERM and Ctrl-C are noted instead of obeyed.

    Outside the main thread, where Python allows no handlers, signals do what they did before.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request._note) for number in EXIT_CODES}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def leaving_at_once(message: str) -> Iterator[None]:
    """Within it SIGTERM and Ctrl-C end the process with their codes and one line, at once.

    Python's handlers wait for compiled code to return, and a decode may take many minutes, more
    than a scheduler waits before it kills. So a thread waits for the signal.

    Outside the main thread, where Python allows no handlers, signals do what they did before.

    Args:
        message: what the line says after the signal's name.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    listener = threading.Thread(target=_listen, args=(receiver, message), daemon=True)
    earlier = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in EXIT_CODES}
    listener.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(earlier)
        sender.close()
        listener.join()
        receiver.close()


def _listen(receiver: socket.socket, message: str) -> None:
    """Leaves when a signal of `EXIT_CODES` arrives, returns when none can arrive any more."""
    while numbers := receiver.recv(1):
        for number in numbers:
            if number in EXIT_CODES:
                with contextlib.suppress(OSError, ValueError):  # nobody listens any more
                    sys.stdout.flush()
                    shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # a bar hides the cursor
                    print(f"{shown}\n{signal.Signals(number).name}: {message}", file=sys.stderr)
                    sys.stderr.flush()
                os._exit(EXIT_CODES[signal.Signals(number)])
