"""Tokens that the input pipeline yields beside those that the training step consumes.

    python -m experiments.benchmarks.data_pipeline

Metric: `rate_ratio`, the pipeline's tokens a second over the gsm_mini teacher's training step's,
both timed in turn in one process, medians. Every measurement of the pipeline is of the first
batches of a fresh one, whose examples are read and tokenised; later epochs come from memory.
"""

from __future__ import annotations

import itertools
import statistics
import time

import jax
from absl import app

from cd4lm_jax.data import pipeline
from cd4lm_jax.data.gsm_mini import vocabulary
from experiments.benchmarks import results
from experiments.benchmarks.train_step import step_of
from experiments.configs import gsm_mini_teacher

REPEATS, BATCHES = 7, 200


def main(argv: list[str]) -> None:
    """Times both in turn and writes the result."""
    del argv
    config = gsm_mini_teacher.get_config()
    tokenizer = vocabulary.load()
    step, _ = step_of(config)
    next(iter(pipeline.batches(config.data, tokenizer)))  # makes the data set where it is missing
    jax.block_until_ready(step())
    tokens = config.data.batch_size * config.data.max_length
    rates: dict[str, list[float]] = {"pipeline": [], "step": []}
    for _ in range(REPEATS):
        batches = iter(pipeline.batches(config.data, tokenizer))
        start = time.perf_counter()
        made = sum(batch["tokens"].size for batch in itertools.islice(batches, BATCHES))
        rates["pipeline"].append(made / (time.perf_counter() - start))
        batches.close()
        start = time.perf_counter()
        jax.block_until_ready(step())
        rates["step"].append(tokens / (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    metrics = {
        "rate_ratio": medians["pipeline"] / medians["step"],
        "pipeline_tokens_per_second": medians["pipeline"],
        "step_tokens_per_second": medians["step"],
    }
    for name, value in metrics.items():
        print(f"{name:26} {value:12.1f}")
    spreads = {f"{name}_rate": results.spread(values) for name, values in rates.items()}
    print(results.write("data_pipeline", metrics, spread=spreads))


if __name__ == "__main__":
    app.run(main)
