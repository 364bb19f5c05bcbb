"""Memory and time of the chunked loss beside a dense one, at LLaDA's vocabulary.

    python -m experiments.benchmarks.loss_memory

Metrics: `memory_ratio` (temporary memory of the compiled loss and gradient over that of the
dense loss, by XLA's own analysis, at batch 8) and `time_ratio` (median wall clock at batch 2,
timed in turn in one process: at batch 8 the dense loss takes 16 GiB). Every position has weight:
the chunked loss computes no others, so that is its hard case.

The floor. Memory: one chunk of logits of each model, and the product that is added to the
kernel's gradient; the gradients themselves are outputs. Time: the four matmuls (teacher, student,
two of the backward pass), which the dense loss needs as well.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import app

from cd4lm_jax.distillation import loss as losses
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.projection import HiddenStates
from experiments.benchmarks import results

VOCAB, LENGTH, WIDTH = 126_464, 512, 512
ROWS, TIMED_ROWS = 8, 2
REPEATS = 5
LAM = 0.7
SETTINGS = Objective(temperature=2.0)

Arguments = tuple[HiddenStates, HiddenStates, jax.Array, jax.Array]


def chunked(
    student: HiddenStates, teacher: HiddenStates, targets: jax.Array, weight: jax.Array
) -> jax.Array:
    """The loss of the training step."""
    return losses.loss(SETTINGS, student, teacher, targets, weight, LAM).total


def dense(
    student: HiddenStates, teacher: HiddenStates, targets: jax.Array, weight: jax.Array
) -> jax.Array:
    """The same from all logits at once, as one would write it down."""
    temperature = SETTINGS.temperature
    logits = student.hidden @ student.kernel
    ce = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1)[:, 0]
    log_t = jax.nn.log_softmax(teacher.hidden @ teacher.kernel / temperature)
    log_q = jax.nn.log_softmax(logits / temperature)
    kl = temperature**2 * jnp.sum(jnp.exp(log_t) * (log_t - log_q), axis=1)
    return jnp.sum(weight * (LAM * kl + (1 - LAM) * ce))


def problem(rows: int) -> Arguments:
    """Random states of `rows * LENGTH` positions, all of equal weight."""
    tokens = rows * LENGTH
    keys = jax.random.split(jax.random.key(0), 5)

    def states(hidden: jax.Array, kernel: jax.Array) -> HiddenStates:
        return HiddenStates(
            jax.random.normal(hidden, (tokens, WIDTH)),
            jax.random.normal(kernel, (WIDTH, VOCAB)) * WIDTH**-0.5,
        )

    targets = jax.random.randint(keys[4], (tokens,), 0, VOCAB)
    weight = jnp.full(tokens, 1 / tokens)
    return states(keys[0], keys[1]), states(keys[2], keys[3]), targets, weight


def compiled(loss: Callable[..., jax.Array], arguments: Arguments) -> Any:
    """The loss and its gradient with respect to the student, for arguments of these shapes."""
    return jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()


def main(argv: list[str]) -> None:
    """Compiles both, times them in turn and writes the result."""
    del argv
    losses = {"chunked": chunked, "dense": dense}
    shapes = jax.eval_shape(lambda: problem(ROWS))
    memory = {
        name: compiled(loss, shapes).memory_analysis().temp_size_in_bytes
        for name, loss in losses.items()
    }
    arguments = problem(TIMED_ROWS)
    runs = {name: compiled(loss, arguments) for name, loss in losses.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            if repeat:  # the first call warms up
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    metrics = {
        "memory_ratio": memory["chunked"] / memory["dense"],
        "time_ratio": medians["chunked"] / medians["dense"],
        "chunked_bytes": memory["chunked"],
        "dense_bytes": memory["dense"],
    }
    for name, value in metrics.items():
        print(f"{name:14} {value:14.4g}")
    spreads = {f"{name}_seconds": results.spread(times) for name, times in seconds.items()}
    sizes = {"vocab": VOCAB, "length": LENGTH, "width": WIDTH}
    batches = {"memory_batch": ROWS, "time_batch": TIMED_ROWS}
    print(results.write("loss_memory", metrics, spread=spreads, sizes=sizes | batches))


if __name__ == "__main__":
    app.run(main)
