"""Decoding any number of prompts of any lengths, and the time that it took."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from cd4lm_jax.decoding import loop, on_mesh, queues, stop
from cd4lm_jax.decoding.canvas import Queue, Results
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.program import Shape
from cd4lm_jax.decoding.queues import Given
from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.decoding.trajectory import Edits, Positions, Trajectory
from cd4lm_jax.models.transformer import Transformer

REPORT_PASSES = 16
"""Passes between two reports of how far a decode is."""

MAX_PROGRAMS = 32
"""Compiled loops that a process keeps; with one more all are dropped (about 18 MB each)."""

R = TypeVar("R")


class Decode(NamedTuple):
    """What came of a decode.

    Attributes:
        trajectory: one row a prompt, in the order given.
        seconds: wall clock of all queues, compilation excluded.
    """

    trajectory: Trajectory
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Update(Positions[np.ndarray]):
    """What some passes of a streamed decode committed or edited: n positions of any rows.

    Attributes:
        tokens, committed_at, confidence, reason: `[n]`, see `Positions`.
        row: int `[n]`, the number of the prompt.
        position: int `[n]`, within the generation.
        finished: int `[m]`, the prompts that have ended since the update before.
        nfe: int `[m]`, their passes.
    """

    row: np.ndarray
    position: np.ndarray
    finished: np.ndarray
    nfe: np.ndarray

    @property
    def token(self) -> np.ndarray:
        """The older name of `tokens`."""
        return self.tokens


def decode(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    config: DecodeConfig,
    given: Given | None = None,
    *,
    first: int = 0,
    report: Callable[[int], None] | None = None,
) -> Decode:
    """Decodes token prompts; a row's result depends on neither its batch nor its place in it.

    Prompts of like length share a queue, of which `config.batch_size` are decoded at once. Every
    shape is compiled before the clock starts. What is random in a prompt's decode follows from the
    seed and the prompt's number in the list.

    Args:
        model: parameters.
        prompts: token ids.
        config: how.
        given: for infilling, see `Given`; None decodes every position.
        first: number of the first prompt, where a list is decoded in parts: each part draws what
            it would draw within the whole.
        report: called every few passes with the number of finished prompts. Ctrl-C takes effect
            between two calls; without `report` it does when the decode has ended.

    Raises:
        ValueError: no prompts, an empty prompt, one that leaves no room for the generation, or
            an id outside the vocabulary; or the model's output is no number.
    """
    shape, waiting = queues.arrange(model, prompts, config, given, first)
    model, mesh = model.by_layer(), on_mesh.mesh_of(model)

    def run(queue: Queue, before: int = 0) -> Results:
        _bound_programs(model, config, shape, queue)
        slots = on_mesh.slots(config.batch_size, len(queue.tokens), mesh)
        if report is None:
            return whole(loop.run, model, queue, config)
        state = loop.begin(model, queue, shape=shape, slots=slots)
        finished = -1
        while finished < queue.pending:
            state, results, ended = loop.advance_by(
                model, queue, config.rule, config.limits, state, REPORT_PASSES, shape=shape
            )
            finished = int(ended.sum())
            report(before + finished)
        return results

    sizes = [len(numbers) for numbers, _ in waiting]
    before = np.cumsum([0, *sizes[:-1]]).tolist()
    with on_mesh.within(mesh):
        for _, queue in waiting:  # an empty queue: the loop compiles and ends at once
            jax.block_until_ready(run(queue._replace(pending=queue.pending * 0)))
        start = time.perf_counter()
        ends = jax.block_until_ready(
            [run(queue, others) for (_, queue), others in zip(waiting, before, strict=True)]
        )
        seconds = time.perf_counter() - start
    return Decode(_trajectory(model, shape, [n for n, _ in waiting], ends), seconds)


def whole(run: Callable[..., R], model: Transformer, queue: Queue, config: DecodeConfig) -> R:
    """What `run` makes of a queue that is decoded to its end: the one call of the compiled loop.

    Args:
        run: `loop.run`, or `loop.run.lower` for a plan of it.
        model: parameters, from `Transformer.by_layer`, or their shapes with shardings.
        queue: prompts, or their shapes.
        config: how.
    """
    mesh = on_mesh.mesh_of(model)
    slots = on_mesh.slots(config.batch_size, len(queue.tokens), mesh)
    shape = config.shape(model.config)
    with on_mesh.within(mesh):
        return run(model, queue, config.rule, config.limits, shape=shape, slots=slots)


def decode_stream(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    config: DecodeConfig,
    given: Given | None = None,
    *,
    every: int = 1,
) -> Iterator[Update]:
    """As `decode`, yielding what was committed or edited after every so many passes.

    Together the updates are what `decode` returns; of a position the last one.

    Raises:
        ValueError: as `decode`, or `every` is below 1.
    """
    if every < 1:
        raise ValueError(f"every={every} passes; give 1 or more")
    shape, waiting = queues.arrange(model, prompts, config, given)
    model, mesh = model.by_layer(), on_mesh.mesh_of(model)
    for numbers, queue in waiting:
        slots = on_mesh.slots(config.batch_size, len(queue.tokens), mesh)
        _bound_programs(model, config, shape, queue)
        with on_mesh.within(mesh):
            state = loop.begin(model, queue, shape=shape, slots=slots)
        reported = np.zeros((len(numbers), shape.gen_length), np.int32)
        over = np.zeros(len(numbers), bool)
        while not over.all():
            with on_mesh.within(mesh):
                state, results, ended = loop.advance_by(
                    model, queue, config.rule, config.limits, state, every, shape=shape
                )
            committed_at = _real(results.committed_at, numbers)
            changed_at = np.maximum(committed_at, _real(results.edited_at, numbers))
            new, fresh = changed_at > reported, _real(ended, numbers) & ~over
            row, position = np.nonzero(new)
            _check_finite(_real(results.confidence, numbers), committed_at, numbers)
            committed = results.positions().items()
            yield Update(
                row=numbers[row],
                position=position,
                **{name: _real(array, numbers)[new] for name, array in committed},
                finished=numbers[fresh],
                nfe=_real(results.nfe, numbers)[fresh],
            )
            reported = changed_at
            over |= fresh


_programs: set[tuple[Any, ...]] = set()


def _bound_programs(model: Transformer, config: DecodeConfig, shape: Shape, queue: Queue) -> None:
    """Drops compiled loops where this decode needs one more than a process should keep."""
    needed = (
        model.config,
        model.execution,
        jax.tree.structure(config.rule),
        shape,
        queue.tokens.shape,
        on_mesh.slots(config.batch_size, len(queue.tokens), on_mesh.mesh_of(model)),
        on_mesh.mesh_of(model),
    )
    if needed not in _programs and len(_programs) >= MAX_PROGRAMS:
        for program in (loop.run, loop.begin, loop.advance_by):
            program.clear_cache()  # type: ignore[attr-defined]  # of jax.jit
        _programs.clear()
    _programs.add(needed)


def _check_finite(confidence: np.ndarray, committed_at: np.ndarray, numbers: np.ndarray) -> None:
    """Refuses what was committed without a probability; all `[rows, generation]` but `numbers`."""
    lost = np.argwhere(np.isnan(confidence))
    if len(lost):
        row, position = lost[0]
        at = committed_at[row, position]
        raise ValueError(
            f"prompt {numbers[row]}: the model's output in pass {at} is no number, or every token "
            "is suppressed; check the weights for values that are not finite, and try float32"
        )


def _real(array: jax.Array, numbers: np.ndarray) -> np.ndarray:
    """The rows of a queue that are prompts."""
    return np.asarray(array)[: len(numbers)]


def _trajectory(
    model: Transformer, shape: Shape, numbers: list[np.ndarray], ends: list[Results]
) -> Trajectory:
    # Lengths count up to an end token even where rows do not stop there.
    sequences = shape.ends.sequences if shape.ends else ()
    ends_at = stop.Ends(tokens=model.config.end_ids, sequences=sequences)
    for rows, end in zip(numbers, ends, strict=True):
        _check_finite(_real(end.confidence, rows), _real(end.committed_at, rows), rows)
    parts = [
        Trajectory(
            **{name: _real(array, rows) for name, array in end.positions().items()},
            nfe=_real(end.nfe, rows),
            edits=_edits(end, rows) if shape.editing else None,
            length=_real(_lengths(end, ends_at), rows),
        )
        for rows, end in zip(numbers, ends, strict=True)
    ]
    return Trajectory.concatenate(parts).rows(np.argsort(np.concatenate(numbers)))


def _lengths(end: Results, ends: stop.Ends) -> jax.Array:
    # On the host first: the results of a mesh of several hosts are no operands of this one's.
    tokens, given = np.asarray(end.tokens), np.asarray(end.reason) == Reason.GIVEN
    return stop.answer_length(tokens, given, ends)


def _edits(end: Results, numbers: np.ndarray) -> Edits:
    return Edits(
        first_tokens=_real(end.first_tokens, numbers),
        edited_at=_real(end.edited_at, numbers),
        count=_real(end.edits, numbers),
    )
