"""Prompts in queues: those of like length together, in few shapes to compile for."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding

from cd4lm_jax.decoding import canvas, on_mesh
from cd4lm_jax.decoding.canvas import Queue
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.program import Shape
from cd4lm_jax.models.transformer import Transformer

PROMPT_BUCKET = 16
"""The narrowest bucket of prompts, in tokens."""

QUEUE_ROWS = 512
"""Rows of a queue that is longer than the batch; a power of two above where they do not do."""

Given = Sequence[Sequence[int | None]]
"""For each prompt its generation positions from the first: a fixed token, or None to decode."""


def bucket(length: int) -> int:
    """What a prompt is padded to: few widths to compile, and at most a third of padding.

    >>> [bucket(length) for length in (1, 17, 128, 129, 300)]
    [16, 32, 128, 192, 384]
    """
    octave = 1 << (length - 1).bit_length()
    step = max(octave // 4, PROMPT_BUCKET)
    return -(-length // step) * step


def row_length(prompt: int, shape: Shape) -> int:
    """Generated positions after so many of the prompt: whole blocks from where they count."""
    size = shape.block_length
    asked = shape.gen_length - shape.lead
    return asked if shape.blocks == "generation" else -(-(prompt + asked) // size) * size - prompt


def arrange(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    config: DecodeConfig,
    given: Given | None,
    first: int = 0,
) -> tuple[Shape, list[tuple[np.ndarray, Queue]]]:
    """The shape compiled for, and prompts of like length with their numbers."""
    shape, mesh = config.shape(model.config), on_mesh.mesh_of(model)
    given = [()] * len(prompts) if given is None else given
    check(model, prompts, given, shape)
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
    make = _make_queue(on_mesh.whole(mesh))
    for width, numbers in buckets.items():
        # What is compiled depends on the rows of a queue; idle rows are never started.
        rows = on_mesh.slots(config.batch_size, len(numbers), mesh)
        if len(numbers) > rows:
            rows = max(1 << (len(numbers) - 1).bit_length(), QUEUE_ROWS)
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
        budget = np.full(rows, config.max_passes or canvas.NO_BUDGET, np.int32)
        draws = np.resize(numbers, rows) + first
        queue = make(tokens, valid, masked, budget, config.seed, draws, np.int32(len(numbers)))
        queues.append((np.asarray(numbers), queue))
    return shape, queues


@functools.cache
def _make_queue(where: NamedSharding | None) -> Callable[..., Queue]:
    """The function that makes a queue from arrays of the host; the same on every host."""

    def make(
        tokens: jax.Array,
        valid: jax.Array,
        masked: jax.Array,
        budget: jax.Array,
        seed: jax.Array,
        numbers: jax.Array,
        pending: jax.Array,
    ) -> Queue:
        draw = functools.partial(jax.random.fold_in, jax.random.key(seed))
        return Queue(tokens, valid, masked, budget, jax.vmap(draw)(numbers), pending)

    return jax.jit(make, out_shardings=where)


def check(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    given: Given,
    shape: Shape,
) -> None:
    """Raises ValueError where prompts do not fit the model, the lengths or what is given."""
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
