"""A row that a client asked for, and what the engine says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.trajectory import Positions


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Commit(Positions[np.ndarray]):
    """What a segment committed of a row: m positions.

    Attributes:
        tokens, committed_at, confidence, reason: `[m]`, see `Positions`.
        position: int `[m]`, within the generation, in the order of passes.
        nfe: the row's passes so far.
        finished: the row has ended; what it did not commit is the tail.
    """

    position: np.ndarray
    nfe: int
    finished: bool


@dataclasses.dataclass(frozen=True)
class Failed:
    """A row that cannot be answered.

    Attributes:
        message: for the client, without anything of another request.
    """

    message: str


Event = Commit | Failed


@dataclasses.dataclass(eq=False, kw_only=True)
class Job:
    """A row to decode.

    Attributes:
        prompt: token ids.
        config: how.
        number: of the choice among those of its request: what is drawn follows from it and the
            seed, as in `cd4lm_jax.decode` of a list.
        given: see `cd4lm_jax.decoding.batching.Given`.
        sink: called by the engine's thread with every event; it must return at once.
        cancelled: set by `Engine.cancel`.
    """

    prompt: Sequence[int]
    config: DecodeConfig
    sink: Callable[[Event], None]
    number: int = 0
    given: Sequence[int | None] = ()
    cancelled: bool = False
