"""What a worker process of the data pipeline does about signals and the end of its run."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading


def initialize(worker: int, workers: int) -> None:
    """Prepares a worker process; grain calls it with the worker's number and how many there are.

    Ctrl-C and Slurm's SIGTERM reach every process of a run. The run finishes its step with what
    the workers make, so they leave such signals to it. They end with the run, however it ends: a
    killed run closes nothing, so each worker waits for the end of its parent.
    """
    del worker, workers
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """Ends this process when the process of a sentinel has ended."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
