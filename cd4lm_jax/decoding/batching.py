"""Decoding any number of prompts of any lengths: buckets, queues, and the time they took."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cd4lm_jax.decoding import canvas, loop, stop
from cd4lm_jax.decoding.canvas import Queue, Results
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.program import Shape
from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.decoding.trajectory import Edits, Positions, Trajectory
from cd4lm_jax.models.transformer import Transformer

REPORT_PASSES = 16
"""Passes between two reports of how far a decode is."""

PROMPT_BUCKET = 16
"""The narrowest bucket of prompts, in tokens."""

QUEUE_ROWS = 512
"""Rows of a queue that is longer than the batch; a power of two above where they do not do."""

MAX_PROGRAMS = 32
"""Compiled loops that a process keeps; with one more all are dropped (about 18 MB each)."""

Given = Sequence[Sequence[int | None]]
"""For each prompt its generation positions from the first: a fixed token, or None to decode."""


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
    shape, queues = _queues(model, prompts, config, given, first)
    model = model.by_layer()

    def run(queue: Queue, before: int = 0) -> Results:
        _bound_programs(model, config, shape, queue)
        slots = min(config.batch_size, len(queue.tokens))
        if report is None:
            return loop.run(model, queue, config.rule, config.limits, shape=shape, slots=slots)
        state = loop.begin(model, queue, shape=shape, slots=slots)
        finished = -1
        while finished < queue.pending:
            state, results, ended = loop.advance_by(
                model, queue, config.rule, config.limits, state, REPORT_PASSES, shape=shape
            )
            finished = int(ended.sum())
            report(before + finished)
        return results

    for _, queue in queues:  # an empty queue: the loop compiles and ends at once
        jax.block_until_ready(run(queue._replace(pending=jnp.zeros_like(queue.pending))))

    sizes = [len(numbers) for numbers, _ in queues]
    before = np.cumsum([0, *sizes[:-1]]).tolist()
    start = time.perf_counter()
    ends = jax.block_until_ready(
        [run(queue, others) for (_, queue), others in zip(queues, before, strict=True)]
    )
    seconds = time.perf_counter() - start
    return Decode(_trajectory(model, shape, [n for n, _ in queues], ends), seconds)


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
    shape, queues = _queues(model, prompts, config, given)
    model = model.by_layer()
    for numbers, queue in queues:
        slots = min(config.batch_size, len(numbers))
        _bound_programs(model, config, shape, queue)
        state = loop.begin(model, queue, shape=shape, slots=slots)
        seen = np.zeros((len(numbers), shape.gen_length), np.int32)
        over = np.zeros(len(numbers), bool)
        while not over.all():
            state, results, ended = loop.advance_by(
                model, queue, config.rule, config.limits, state, every, shape=shape
            )
            committed_at = _real(results.committed_at, numbers)
            changed_at = np.maximum(committed_at, _real(results.edited_at, numbers))
            new, fresh = changed_at > seen, _real(ended, numbers) & ~over
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
            seen = changed_at
            over |= fresh


def bucket(length: int) -> int:
    """What a prompt is padded to: few widths to compile, and at most a quarter of padding.

    >>> [bucket(length) for length in (1, 17, 128, 129, 300)]
    [16, 32, 128, 160, 320]
    """
    octave = 1 << (length - 1).bit_length()
    step = max(octave // 8, PROMPT_BUCKET)
    return -(-length // step) * step


def row_length(prompt: int, shape: Shape) -> int:
    """Generated positions after so many of the prompt: whole blocks from where they count."""
    size = shape.block_length
    asked = shape.gen_length - shape.lead
    return asked if shape.blocks == "generation" else -(-(prompt + asked) // size) * size - prompt


def _queues(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    config: DecodeConfig,
    given: Given | None,
    first: int = 0,
) -> tuple[Shape, list[tuple[np.ndarray, Queue]]]:
    """The shape compiled for, and prompts of like length with their numbers."""
    shape = config.shape(model.config)
    given = [()] * len(prompts) if given is None else given
    _check(model, prompts, given, shape)
    room = model.config.max_length - shape.gen_length
    # A first block that begins in the prompt, and what a cache reads before it, lie on the canvas.
    least = shape.window_length if shape.lead else 1
    buckets: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        width = max(min(bucket(len(prompt)), room), least)
        buckets.setdefault(width, []).append(number)
    # A queue shorter than the batch would be compiled for itself and leave slots idle.
    for width, wider in itertools.pairwise(sorted(buckets)):
        if len(buckets[width]) < config.batch_size:
            buckets[wider] = sorted(buckets.pop(width) + buckets[wider])
    queues = []
    for width, numbers in buckets.items():
        # What is compiled depends on the rows of a queue; idle rows are never started.
        rows = len(numbers)
        if rows > config.batch_size:
            rows = max(1 << (rows - 1).bit_length(), QUEUE_ROWS)
        laid_out = canvas.layout(
            [prompts[number] for number in numbers],
            [given[number] for number in numbers],
            prompt_length=width,
            gen_length=shape.gen_length,
            mask_id=model.config.mask_id,
            lengths=[row_length(len(prompts[number]), shape) for number in numbers],
        )
        tokens, valid, masked = (
            np.pad(array, ((0, rows - len(array)), (0, 0))) for array in laid_out
        )
        queue = Queue(
            tokens=jnp.asarray(tokens),
            valid=jnp.asarray(valid),
            masked=jnp.asarray(masked),
            budget=jnp.full(rows, config.max_passes or canvas.NO_BUDGET, jnp.int32),
            keys=_keys(config.seed, np.resize(numbers, rows) + first),
            pending=jnp.int32(len(numbers)),
        )
        queues.append((np.asarray(numbers), queue))
    return shape, queues


_programs: set[tuple[Any, ...]] = set()


def _bound_programs(model: Transformer, config: DecodeConfig, shape: Shape, queue: Queue) -> None:
    """Drops compiled loops where this decode needs one more than a process should keep."""
    needed = (
        model.config,
        model.execution,
        jax.tree.structure(config.rule),
        shape,
        queue.tokens.shape,
        min(config.batch_size, len(queue.tokens)),
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
            length=_real(stop.answer_length(end.tokens, end.reason == Reason.GIVEN, ends_at), rows),
        )
        for rows, end in zip(numbers, ends, strict=True)
    ]
    return Trajectory.concatenate(parts).rows(np.argsort(np.concatenate(numbers)))


def _edits(end: Results, numbers: np.ndarray) -> Edits:
    return Edits(
        first_tokens=_real(end.first_tokens, numbers),
        edited_at=_real(end.edited_at, numbers),
        count=_real(end.edits, numbers),
    )


@jax.jit
def _keys(seed: jax.Array, numbers: jax.Array) -> jax.Array:
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(numbers)


def _check(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    given: Given,
    shape: Shape,
) -> None:
    if not prompts:
        raise ValueError("there are no prompts to decode; give at least one")
    if len(given) != len(prompts):
        raise ValueError(
            f"given has {len(given)} rows for {len(prompts)} prompts; give one of each a prompt"
        )
    config = model.config
    room = config.max_length - shape.gen_length
    for row, (prompt, fixed) in enumerate(zip(prompts, given, strict=True)):
        if not prompt:
            raise ValueError(f"prompt {row} is empty; give at least one token")
        if len(prompt) > room:
            raise ValueError(
                f"prompt {row} has {len(prompt)} tokens; the model's {config.max_length} positions "
                f"less gen_length={shape.gen_length} leave {room}; shorten the prompt or gen_length"
            )
        most = row_length(len(prompt), shape)
        if len(fixed) > most:
            raise ValueError(
                f"given row {row} has {len(fixed)} positions; gen_length={most} is all there are"
            )
        tokens = [*prompt, *(token for token in fixed if token is not None)]
        if min(tokens) < 0 or max(tokens) >= config.vocab_size:
            raise ValueError(
                f"prompt {row} has an id outside the model's vocabulary of {config.vocab_size}; "
                "encode it with the model's own tokenizer"
            )
