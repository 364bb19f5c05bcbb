"""A lane: rows that one compiled program decodes together, each in a slot of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from cd4lm_jax.decoding import on_mesh, slots
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.program import Shape
from cd4lm_jax.decoding.slots import Row
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.serving.engine.job import Commit, Event, Failed, Job

NARROWEST = 32
"""The narrowest canvas for prompts, in tokens; each wider one doubles it."""

BATCHES = 2
"""Ratio of the batch sizes that are compiled for: 1, 2, 4, ... rows, up to all slots."""


class Key(NamedTuple):
    """What a lane is compiled for.

    Attributes:
        rule: the rule's class and its fields that are no numbers.
        shape: lengths, cache and what else is static.
        prompt_length: what prompts are padded to.
    """

    rule: Any
    shape: Shape
    prompt_length: int

    @classmethod
    def of(cls, model: ModelConfig, config: DecodeConfig, prompt: int) -> Key:
        """The lane of a prompt of so many tokens.

        Raises:
            ValueError: the config does not fit the model.
        """
        shape = config.shape(model)
        # One program for all that is drawn: top_k=0 and top_p=1 leave every token in.
        shape = dataclasses.replace(shape, truncated=shape.sampled)
        # A first block that begins in the prompt lies on the canvas.
        least = max(prompt, shape.window_length if shape.lead else 1)
        width = next(width for width in widths(model, shape.gen_length) if width >= least)
        return cls(jax.tree.structure(config.rule), shape, width)

    def can_hold(self, other: Key) -> bool:
        """Whether a row of another key may be decoded here: the same but for some padding."""
        same = (self.rule, self.shape) == (other.rule, other.shape)
        return same and other.prompt_length <= self.prompt_length <= 2 * other.prompt_length


def widths(model: ModelConfig, gen_length: int) -> list[int]:
    """What prompts are padded to: doubling, up to the room that a generation leaves."""
    room = model.max_length - gen_length
    found: list[int] = []
    while not found or found[-1] < room:
        found.append(min(found[-1] * 2 if found else NARROWEST, room))
    return found


def batch_sizes(slots: int) -> list[int]:
    """How many rows a lane of so many slots computes at once."""
    found: list[int] = []
    while not found or found[-1] < slots:
        found.append(min(found[-1] * BATCHES if found else 1, slots))
    return found


class Lane:
    """Rows of one key. Only the engine's thread touches it."""

    def __init__(self, key: Key, model: Transformer, size: int) -> None:
        """An empty lane of `size` slots; `model` is by layer."""
        self.key = key
        self._model = model
        self._size = size
        self._jobs: dict[int, Job] = {}
        self._rows: dict[int, Row] = {}
        self._cache = slots.empty_cache(model, key.shape, size, key.prompt_length)
        self.batch_sizes: set[int] = set()
        """Rows that a segment has computed at once: each is a program."""

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def full(self) -> bool:
        """Whether no slot is free."""
        return len(self._jobs) >= self._size

    def enter(self, job: Job) -> None:
        """Gives a job a free slot."""
        slot = next(slot for slot in range(self._size) if slot not in self._jobs)
        self._jobs[slot] = job
        self._rows[slot] = slots.row(
            job.prompt,
            job.given,
            job.config,
            self.key.shape,
            prompt_length=self.key.prompt_length,
            mask_id=self._model.config.mask_id,
            number=job.number,
        )

    def drop_cancelled(self) -> None:
        """Frees the slots of jobs that nobody waits for."""
        for slot, job in [*self._jobs.items()]:
            if job.cancelled:
                self._leave(slot)

    def fail(self, message: str) -> None:
        """Frees all slots and says why."""
        for slot, job in [*self._jobs.items()]:
            self._leave(slot)
            job.sink(Failed(message))

    def segment(self, passes: int, *, eager: bool) -> tuple[int, int]:
        """Some passes of all rows; says to each job what they committed.

        Args:
            passes: at most.
            eager: end with the first row that ends.

        Returns:
            Passes of rows, and positions committed.
        """
        busy = [*self._jobs]
        count = next(size for size in batch_sizes(self._size) if size >= len(busy))
        free = (slot for slot in range(self._size) if slot not in self._jobs)
        place = [*busy, *(next(free) for _ in range(count - len(busy)))]
        rows = [self._rows[slot] for slot in busy]
        rows += [slots.idle(rows[0])] * (count - len(rows))
        with on_mesh.within(on_mesh.mesh_of(self._model)):
            canvas, self._cache = slots.advance_by(
                self._model,
                jax.tree.map(lambda *leaves: np.stack(leaves), *rows),
                self._cache,
                np.asarray(place, np.int32),
                np.int32(passes),
                np.bool_(eager),
                shape=self.key.shape,
            )
        self.batch_sizes.add(count)
        canvas = jax.device_get(canvas)
        spent = committed = 0
        for at, slot in enumerate(busy):
            before = self._rows[slot]
            row = before._replace(canvas=type(canvas)(*(leaf[at] for leaf in canvas)))
            self._rows[slot] = row
            event = _event(before, row)
            spent += int(row.canvas.nfe - before.canvas.nfe)
            if isinstance(event, Commit):
                committed += len(event.position)
            job = self._jobs[slot]
            if isinstance(event, Failed) or event.finished:
                self._leave(slot)
            job.sink(event)
        return spent, committed

    def warm(self, config: DecodeConfig) -> Iterator[int]:
        """Compiles for every number of rows; yields each when it is done."""
        for count in batch_sizes(self._size):
            for number in range(count):
                job = Job(prompt=[0], config=config, sink=lambda event: None, number=number)
                self.enter(job)
            self.segment(0, eager=False)
            for slot in [*self._jobs]:
                self._leave(slot)
            yield count

    def _leave(self, slot: int) -> None:
        del self._jobs[slot], self._rows[slot]


def _event(before: Row, after: Row) -> Event:
    """What happened to a row between two calls."""
    old: Any = before.canvas
    new: Any = after.canvas
    position = np.flatnonzero(new.committed_at > old.nfe)
    position = position[np.argsort(new.committed_at[position], kind="stable")]
    if np.isnan(new.confidence[position]).any():
        return Failed(
            "the model's output is no number, or every token is suppressed; the operator should "
            "check the weights for values that are not finite, and try float32"
        )
    generated = new.tokens[-len(new.masked) :]
    return Commit(
        tokens=generated[position],
        committed_at=new.committed_at[position],
        confidence=new.confidence[position],
        reason=new.reason[position],
        position=position,
        nfe=int(new.nfe),
        finished=bool(new.done),
    )
