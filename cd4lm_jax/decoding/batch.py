"""Decoding any number of prompts of any lengths: buckets, batches, and the time they took."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from cd4lm_jax.decoding import canvas, decoder, stop
from cd4lm_jax.decoding.commit import CommitRule
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.model.transformer import Transformer

PROMPT_BUCKET = 16
"""Prompts are padded to a multiple of this, so that few shapes are compiled."""


class Decode(NamedTuple):
    """What came of a decode.

    Attributes:
        trajectory: one row a prompt, in the order given.
        seconds: wall clock of all batches, compilation excluded.
    """

    trajectory: Trajectory
    seconds: float


def decode(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    rule: CommitRule,
    *,
    shape: decoder.Shape,
    limits: decoder.Limits = decoder.Limits(),
    batch_size: int = 8,
    seed: int = 0,
) -> Decode:
    """Decodes token prompts; a row's result depends on neither its batch nor its place in it.

    Prompts of like length share a batch. Every shape is compiled before the clock starts. What is
    random in a prompt's decode follows from the seed and the prompt's number in the list.

    Raises:
        ValueError: no prompts, an empty prompt, one that leaves no room for the generation, or
            an id outside the vocabulary.
    """
    _check(model, prompts, shape, batch_size)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    batches = []
    for group in groups:
        longest = max(len(prompts[row]) for row in group)
        room = model.config.max_length - shape.gen_length
        batch = canvas.layout(
            [prompts[row] for row in group],
            rows=min(batch_size, len(prompts)),
            prompt_length=min(-(-longest // PROMPT_BUCKET) * PROMPT_BUCKET, room),
            gen_length=shape.gen_length,
            mask_id=model.config.mask_id,
        )
        numbers = np.resize(group, len(batch[0]))  # any will do for the filler
        batches.append((*jax.device_put(batch), _keys(seed, numbers)))
    for tokens, valid, done, keys in {batch[0].shape: batch for batch in batches}.values():
        # All rows done: the loop compiles and ends at once.
        finished = decoder.run(model, tokens, valid, done | True, keys, rule, limits, shape=shape)
        jax.block_until_ready(finished)

    start = time.perf_counter()
    ends = [decoder.run(model, *batch, rule, limits, shape=shape) for batch in batches]
    ends = jax.block_until_ready(ends)
    seconds = time.perf_counter() - start

    parts = []
    for group, end in zip(groups, ends, strict=True):
        generated = end.tokens[:, -shape.gen_length :]
        part = Trajectory(
            tokens=np.asarray(generated),
            committed_at=np.asarray(end.committed_at),
            confidence=np.asarray(end.confidence),
            nfe=np.asarray(end.nfe),
            length=np.asarray(stop.answer_length(generated, model.config.end_ids)),
        )
        parts.append(part.rows(slice(len(group))))
    return Decode(Trajectory.concatenate(parts).rows(np.argsort(order)), seconds)


@jax.jit
def _keys(seed: jax.Array, numbers: jax.Array) -> jax.Array:
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(numbers)


def _check(
    model: Transformer, prompts: Sequence[Sequence[int]], shape: decoder.Shape, batch_size: int
) -> None:
    if not prompts:
        raise ValueError("there are no prompts to decode; give at least one")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; give 1 or more")
    config = model.config
    room = config.max_length - shape.gen_length
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {row} is empty; give at least one token")
        if len(prompt) > room:
            raise ValueError(
                f"prompt {row} has {len(prompt)} tokens; the model's {config.max_length} positions "
                f"less gen_length={shape.gen_length} leave {room}; shorten the prompt or gen_length"
            )
        if min(prompt) < 0 or max(prompt) >= config.vocab_size:
            raise ValueError(
                f"prompt {row} has an id outside the model's vocabulary of {config.vocab_size}; "
                "encode it with the model's own tokenizer"
            )
