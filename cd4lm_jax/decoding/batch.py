"""Decoding any number of prompts of any lengths: buckets, queues, and the time they took."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
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
        seconds: wall clock of all queues, compilation excluded.
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

    Prompts of like length share a queue, of which ``batch_size`` are decoded at once. Every shape
    is compiled before the clock starts. What is random in a prompt's decode follows from the seed
    and the prompt's number in the list.

    Raises:
        ValueError: no prompts, an empty prompt, one that leaves no room for the generation, or
            an id outside the vocabulary.
    """
    _check(model, prompts, shape, batch_size)
    room = model.config.max_length - shape.gen_length
    buckets: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        width = min(-(-len(prompt) // PROMPT_BUCKET) * PROMPT_BUCKET, room)
        buckets.setdefault(width, []).append(number)
    queues = []
    for width, numbers in buckets.items():
        tokens, valid = canvas.layout(
            [prompts[number] for number in numbers],
            prompt_length=width,
            gen_length=shape.gen_length,
            mask_id=model.config.mask_id,
        )
        keys = _keys(seed, np.asarray(numbers))
        queue = canvas.Queue(
            tokens=jnp.asarray(tokens),
            valid=jnp.asarray(valid),
            keys=keys,
            pending=jnp.int32(len(tokens)),
        )
        queues.append(queue)

    def run(queue: canvas.Queue) -> canvas.Results:
        slots = min(batch_size, len(queue.tokens))
        return decoder.run(model, queue, rule, limits, shape=shape, slots=slots)

    for queue in queues:  # an empty queue: the loop compiles and ends at once
        jax.block_until_ready(run(queue._replace(pending=jnp.zeros_like(queue.pending))))

    start = time.perf_counter()
    ends = jax.block_until_ready([run(queue) for queue in queues])
    seconds = time.perf_counter() - start

    parts = [
        Trajectory(
            **{name: np.asarray(array) for name, array in end._asdict().items()},
            length=np.asarray(stop.answer_length(end.tokens, model.config.end_ids)),
        )
        for end in ends
    ]
    order = np.argsort(np.concatenate(list(buckets.values())))
    return Decode(Trajectory.concatenate(parts).rows(order), seconds)


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
