"""A trace of a few steps of a loop, for xprof and TensorBoard."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax


class StepTrace:
    """Traces some steps of a loop; what they compute stays the same, bit for bit.

    ```python
    with StepTrace("runs/demo/profile", range(10, 16)) as trace:
        for number in range(1, 101):
            with trace.step(number):
                result = step(...)
            trace.ended(number, result)
    ```

    `FOLDER/plugins/profile/TIME/HOST.xplane.pb` then shows what host and devices did, each step
    under its number: `xprof --logdir=FOLDER`.
    """

    def __init__(self, folder: str | os.PathLike[str], steps: range) -> None:
        """Prepares the trace.

        Args:
            folder: where it goes.
            steps: numbers of the steps to trace, one after the other; none of them: no trace.
        """
        self._folder, self._steps, self._tracing = os.fspath(folder), steps, False

    def __enter__(self) -> StepTrace:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """What is done within it is step `number` of the trace."""
        if number in self._steps and not self._tracing:
            jax.profiler.start_trace(self._folder)
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("step", step_num=number):
            yield

    def ended(self, number: int, result: Any) -> None:
        """Ends the trace after its last step, once the devices have computed its `result`."""
        if self._tracing and number >= self._steps[-1]:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
