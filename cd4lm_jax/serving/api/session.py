"""One request's rows in the engine, and their events in the order in which they come."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.serving.answer import Answer
from cd4lm_jax.serving.api.errors import ApiError
from cd4lm_jax.serving.api.prepare import Choice
from cd4lm_jax.serving.engine.engine import Engine, QueueFull, Stopped
from cd4lm_jax.serving.engine.job import Commit, Event, Failed, Job


class Session:
    """Rows that run until all have ended, the time is over, or `close`.

    Events that nobody has taken wait here: at most one for each pass of each row, since a row
    commits in no more passes than it has positions. So a slow reader costs memory of that bound
    and no one else's time.
    """

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, choices: Sequence[Choice], seconds: float
    ) -> None:
        """Hands the rows to the engine.

        Raises:
            ApiError: the queue is full, or the server stops.
        """
        self.answers = [Answer(tokenizer, it.config, it.limits, it.given) for it in choices]
        self.deadline = time.monotonic() + seconds
        self._engine = engine
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def send(index: int, event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the server has stopped meanwhile
                loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        self._jobs = [
            Job(
                prompt=choice.prompt,
                config=choice.config,
                number=choice.number,
                given=choice.given,
                sink=lambda event, index=index: send(index, event),  # type: ignore[misc]
            )
            for index, choice in enumerate(choices)
        ]
        try:
            engine.submit(self._jobs)
        except QueueFull as full:
            headers = {"Retry-After": str(full.retry_after)}
            raise ApiError(429, str(full), code="queue_full", headers=headers) from full
        except Stopped:
            raise ApiError(503, "the server stops; try again", code="stopping") from None

    @property
    def remaining(self) -> float:
        """Seconds that are left."""
        return max(0.0, self.deadline - time.monotonic())

    async def events(self) -> AsyncIterator[tuple[int, Commit]]:
        """Each row's number and what it committed, until all answers have ended.

        Raises:
            ApiError: the time is over, or the engine failed.
        """
        while any(answer.finish is None for answer in self.answers):
            try:
                index, event = await asyncio.wait_for(self._events.get(), self.remaining)
            except TimeoutError:
                raise timed_out() from None
            if isinstance(event, Failed):
                raise ApiError(503, event.message, code="engine")
            answer = self.answers[index]
            if answer.finish is not None:
                continue  # what its row still did before it was stopped
            answer.add(event)
            if answer.finish is not None and not event.finished:
                self._engine.cancel([self._jobs[index]])
            yield index, event

    def close(self) -> None:
        """Frees the slots of rows that have not ended."""
        self._engine.cancel(self._jobs)


def timed_out() -> ApiError:
    """The time of a request is over."""
    return ApiError(504, "the request took longer than this server allows", code="timeout")
