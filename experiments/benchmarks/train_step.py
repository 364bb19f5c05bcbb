"""The training step's FLOP rate beside that of a plain float32 matmul of the MLP's shape.

    python -m experiments.benchmarks.train_step

Metrics: `flop_ratio` (median step over median matmul, both timed in turn in one process),
`step_seconds`, `step_gflops`, `matmul_gflops`. Only matmuls are counted as the step's work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import app

from cd4lm_jax.corruption.views import Batch
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.models.transformer import Transformer
from experiments.benchmarks import results
from experiments.configs import gsm_mini_teacher

REPEATS = 9


def step_flops(config: TrainConfig, head_positions: int) -> float:
    """Matmul FLOPs of one update, two a multiply-add, the backward pass twice the forward."""
    model = config.model
    assert model is not None
    tokens = config.data.batch_size * config.data.max_length
    queries = model.num_heads * model.head_dim
    keys = model.num_kv_heads * model.head_dim
    block = model.embed_dim * (2 * queries + 2 * keys + 3 * model.mlp_dim)
    scores = 2 * config.data.max_length * queries
    head = head_positions * model.embed_dim * model.vocab_size
    return 3 * 2 * (tokens * model.num_layers * (block + scores) + head)


def step_of(config: TrainConfig) -> tuple[Callable[[], Any], int]:
    """One update on a random full batch, to be called; and the positions it learns from."""
    assert config.model is not None
    data, key = config.data, jax.random.key(0)
    shape = (data.batch_size, data.max_length)
    answer = jnp.arange(data.max_length) >= data.max_length - data.answer_length
    batch = Batch(
        tokens=jax.random.randint(key, shape, 6, 500),
        valid=jnp.ones(shape, bool),
        answer=jnp.broadcast_to(answer, shape),
        index=jnp.arange(data.batch_size),
    )
    learner = config.learner
    model = Transformer(config.model, key, config.execution)
    state = learner.init(model)
    update = jax.jit(lambda state: learner.update(state, None, batch))
    views = learner.views(model, None, batch, jax.random.key(0))
    return lambda: update(state), int(views.student.sum())


def main(argv: list[str]) -> None:
    """Times both in turn and writes the result."""
    del argv
    config = gsm_mini_teacher.get_config()
    model_config, data, key = config.model, config.data, jax.random.key(0)
    assert model_config is not None
    step, positions = step_of(config)
    rows = data.batch_size * data.max_length
    left = jax.random.normal(key, (rows, model_config.embed_dim))
    right = jax.random.normal(key, (model_config.embed_dim, model_config.mlp_dim))
    matmul = jax.jit(lambda a, b: a @ b)
    jax.block_until_ready((step(), matmul(left, right)))

    steps, matmuls = [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(step())
        steps.append(time.perf_counter() - start)
        start = time.perf_counter()
        jax.block_until_ready([matmul(left, right) for _ in range(20)])
        matmuls.append((time.perf_counter() - start) / 20)

    flops = step_flops(config, positions)
    matmul_flops = 2 * rows * model_config.embed_dim * model_config.mlp_dim
    rate = flops / statistics.median(steps)
    matmul_rate = matmul_flops / statistics.median(matmuls)
    metrics = {
        "flop_ratio": rate / matmul_rate,
        "step_seconds": statistics.median(steps),
        "step_gflops": rate / 1e9,
        "matmul_gflops": matmul_rate / 1e9,
    }
    for name, value in metrics.items():
        print(f"{name:14} {value:8.3f}")
    spreads = {"step_seconds": results.spread(steps), "matmul_seconds": results.spread(matmuls)}
    print(results.write("train_step", metrics, spread=spreads))


if __name__ == "__main__":
    app.run(main)
