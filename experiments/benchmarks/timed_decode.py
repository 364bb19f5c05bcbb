"""Random models and queues, and the compiled loop on them, to be timed.

Imports with jax, flax, optax and orbax alone, as an accelerator's image has them.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cd4lm_jax.decoding import cache, canvas, loop
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rules import FixedStep
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.placement import Placement
from cd4lm_jax.models.transformer import Transformer
from experiments.benchmarks import results

BLOCK = 32


def random_model(config: ModelConfig, dtype: str = "float32") -> Transformer:
    """Random weights in `dtype`, made on the device."""

    def make() -> Transformer:
        model = Transformer(config, jax.random.key(0), Placement().execution(config, dtype))
        return jax.tree.map(lambda leaf: leaf.astype(dtype), model)

    return jax.block_until_ready(jax.jit(make)())


def queue_of(config: ModelConfig, prompts: list[int], lengths: list[int], gen: int) -> canvas.Queue:
    """Random prompts and answers of these lengths."""
    rng = np.random.default_rng(0)
    tokens, valid, masked = canvas.layout(
        [rng.integers(0, config.eos_id, length).tolist() for length in prompts],
        [[None] * length + [config.eos_id] * (gen - length) for length in lengths],
        prompt_length=max(prompts),
        gen_length=gen,
        mask_id=config.mask_id,
    )
    rows = len(prompts)
    return canvas.Queue(
        tokens=jnp.asarray(tokens),
        valid=jnp.asarray(valid),
        masked=jnp.asarray(masked),
        budget=jnp.full(rows, canvas.NO_BUDGET, jnp.int32),
        keys=jax.random.split(jax.random.key(0), rows),
        pending=jnp.int32(rows),
    )


class Timed:
    """The compiled loop with a fixed number of tokens a pass, to be called and timed."""

    def __init__(
        self,
        model: Transformer,
        queue: canvas.Queue,
        slots: int,
        *,
        per_pass: int,
        cache: cache.Mode = "none",
    ) -> None:
        gen = queue.masked.shape[1]
        options = DecodeConfig(gen_length=gen, block_length=BLOCK, stop_at_eos=False, cache=cache)
        self._queue = queue
        self._run = functools.partial(
            loop.run,
            model.by_layer(),
            rule=FixedStep(steps=gen // per_pass),
            limits=options.limits,
            shape=options.shape(model.config),
            slots=slots,
        )
        # An empty queue: the loop compiles and ends at once.
        jax.block_until_ready(self._run(queue._replace(pending=jnp.int32(0))))

    def __call__(self) -> canvas.Results:
        """Decodes the queue."""
        return jax.block_until_ready(self._run(self._queue))


def in_turn(*calls: Callable[[], Any], repeats: int) -> list[list[float]]:
    """Seconds of each call, all of them measured in turn."""
    rounds = []
    for _ in range(repeats):
        times = []
        for call in calls:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        rounds.append(times)
    return [list(times) for times in zip(*rounds, strict=True)]


def large(
    config: ModelConfig,
    name: str,
    repeats: int,
    metrics: dict[str, float],
    spreads: dict[str, Any],
) -> None:
    """Milliseconds a pass in bfloat16 beside the floor: every weight read once."""
    model, gen = random_model(config, "bfloat16"), 8 * BLOCK
    queue = queue_of(config, [128], [gen], gen)
    modes: tuple[cache.Mode, ...] = ("none", "dual")
    timed = in_turn(
        *(Timed(model, queue, 1, per_pass=1, cache=mode) for mode in modes), repeats=repeats
    )
    for kind, times in zip(modes, timed, strict=True):
        milliseconds = [1000 * seconds / gen for seconds in times]
        metrics[f"{name}_ms_{kind}"] = statistics.median(milliseconds)
        spreads[f"{name}_ms_{kind}"] = results.spread(milliseconds)
    buffer = jnp.zeros(2**30 if jax.default_backend() == "gpu" else 2**24, jnp.bfloat16)
    copy = jax.jit(lambda x: x + 1)
    seconds = statistics.median(results.seconds(lambda: copy(buffer), repeats=9))
    bandwidth = 2 * buffer.nbytes / seconds  # read and written
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(model)) - model.embedding[...].nbytes
    metrics[f"{name}_floor_ms"] = 1000 * weights / bandwidth
    metrics["copy_gb_per_s"] = bandwidth / 1e9
