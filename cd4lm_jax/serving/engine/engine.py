"""One thread that runs the model; other threads give it jobs, whose sinks receive the events.

Jobs wait in one queue, in the order of their arrival. Between two segments those that find a slot
free in their lane enter; one whose lane is full lets those of other lanes pass. The lane that has
waited longest computes next, so none starves.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Iterator, Sequence

from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.serving.engine.job import Failed, Job
from cd4lm_jax.serving.engine.lane import Key, Lane, widths

_log = logging.getLogger(__name__)


class QueueFull(Exception):
    """No job more can wait.

    Attributes:
        retry_after: seconds, about when one can.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


class Stopped(Exception):
    """The engine takes no more jobs."""


@dataclasses.dataclass
class Counters:
    """What the engine has done so far.

    Attributes:
        passes: forward passes, counted by row.
        tokens: positions committed.
        segments: calls of a compiled program.
        seconds: spent in them.
        finished: jobs that ended.
        compiled: programs in use.
    """

    passes: int = 0
    tokens: int = 0
    segments: int = 0
    seconds: float = 0.0
    finished: int = 0
    compiled: int = 0


class Engine:
    """Lanes of slots and the queue before them."""

    def __init__(
        self,
        model: Transformer,
        *,
        slots: int = 16,
        queue: int = 128,
        segment_passes: int = 1,
    ) -> None:
        """An engine that has not started.

        Args:
            model: parameters.
            slots: rows of a lane that are decoded together.
            queue: jobs that may wait.
            segment_passes: passes after which jobs may enter and leave, and events are sent.

        Raises:
            ValueError: a number below 1.
        """
        for name, value in {
            "slots": slots,
            "queue": queue,
            "segment_passes": segment_passes,
        }.items():
            if value < 1:
                raise ValueError(f"{name}={value}; give 1 or more")
        self.model = model
        self.slots = slots
        self.counters = Counters()
        self._by_layer = model.by_layer()
        self._queue = queue
        self._passes = segment_passes
        self._waiting: collections.deque[tuple[Key, Job]] = collections.deque()
        # From the lane that has waited longest to the one that computed last.
        self._lanes: collections.OrderedDict[Key, Lane] = collections.OrderedDict()
        self._programs: set[tuple[Key, int]] = set()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begins to serve."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """Slots in use."""
        with self._changed:
            return sum(map(len, self._lanes.values()))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Puts jobs in the queue, all or none.

        Raises:
            QueueFull: they do not all find a place.
            Stopped: the engine stops or has failed.
            ValueError: a config that does not fit the model.
        """
        keys = [Key.of(self.model.config, job.config, len(job.prompt)) for job in jobs]
        with self._changed:
            if self._stopping or not self.alive:
                raise Stopped
            if len(self._waiting) + len(jobs) > self._queue:
                raise QueueFull(self._retry_after())
            self._waiting.extend(zip(keys, jobs, strict=True))
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Says that nobody waits for jobs any more; their slots are free within a segment."""
        with self._changed:
            for job in jobs:
                job.cancelled = True
            self._changed.notify()

    def stop(self, *, timeout: float = 10.0) -> None:
        """Ends what is in flight with an error, and the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self.alive:
            self._thread.join(timeout)

    def warm(self, configs: Sequence[DecodeConfig]) -> Iterator[str]:
        """Compiles all lanes of some configs before `start`; yields a line for each program."""
        config = self.model.config
        for decode in configs:
            for width in widths(config, decode.gen_length):
                key = Key.of(config, decode, width)
                lane = Lane(key, self._by_layer, self.slots)
                for rows in lane.warm(decode):
                    self._note(lane)
                    name = f"{decode.label}, {width} + {decode.gen_length} tokens"
                    yield f"compiled {name}, {rows} rows"

    def _retry_after(self) -> int:
        done, seconds = self.counters.finished, self.counters.seconds
        each = seconds / done if done else 1.0
        return max(1, min(60, round(each * len(self._waiting))))

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except Exception:
            _log.exception("engine failed")
            self._end("the server failed; try again later")

    def _turn(self) -> bool:
        """Lets jobs in and computes one segment; False when the engine is to stop."""
        with self._changed:
            while not (self._waiting or self._lanes or self._stopping):
                self._changed.wait()
            stopping = self._stopping
            for key, lane in [*self._lanes.items()]:
                lane.drop_cancelled()
                if not len(lane):
                    del self._lanes[key]  # and its keys and values
            if not stopping:
                self._admit()
            eager = bool(self._waiting)
        if stopping:
            self._end("the server stops; try again")
            return False
        if self._lanes:
            self._serve(eager)
        return True

    def _admit(self) -> None:
        left: list[tuple[Key, Job]] = []
        for key, job in self._waiting:
            if job.cancelled:
                continue
            # Rows of like length share a lane that is busy already: one program instead of two.
            fitting = [lane for known, lane in self._lanes.items() if known.can_hold(key)]
            lane = max((lane for lane in fitting if not lane.full), key=len, default=None)
            if lane is None and key not in self._lanes:
                lane = self._lanes[key] = Lane(key, self._by_layer, self.slots)
            if lane is None:
                left.append((key, job))
            else:
                lane.enter(job)
        self._waiting = collections.deque(left)

    def _serve(self, eager: bool) -> None:
        key, lane = next(iter(self._lanes.items()))
        before, start = len(lane), time.perf_counter()
        passes, tokens = lane.segment(self._passes, eager=eager)
        self._note(lane)
        counters = self.counters
        counters.passes += passes
        counters.tokens += tokens
        counters.segments += 1
        counters.finished += before - len(lane)
        counters.seconds += time.perf_counter() - start
        with self._changed:
            self._lanes.move_to_end(key)
            if not len(lane):
                del self._lanes[key]

    def _note(self, lane: Lane) -> None:
        self._programs |= {(lane.key, rows) for rows in lane.batch_sizes}
        self.counters.compiled = len(self._programs)

    def _end(self, message: str) -> None:
        with self._changed:
            self._stopping = True
            waiting, self._waiting = [*self._waiting], collections.deque()
        for _, job in waiting:
            job.sink(Failed(message))
        for lane in self._lanes.values():
            lane.fail(message)
        self._lanes.clear()
