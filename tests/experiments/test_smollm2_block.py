"""The benchmark of block diffusion from an autoregressive model, on a tiny Llama."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest

from cd4lm_jax.checkpoints.conversion import convert
from cd4lm_jax.checkpoints.diffusion import Diffusion
from cd4lm_jax.checkpoints.loading import load_config
from cd4lm_jax.data import pipeline
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.models.transformer import Execution
from experiments.benchmarks import smollm2_block
from experiments.configs import smollm2_block as smollm2_config
from tests.checkpoints.gguf_writer import write


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
def test_measures_a_conversion_before_and_after_training(
    golden: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source, rows = tmp_path / "model.gguf", tmp_path / "rows.jsonl"
    write(golden / "families" / "llama", source, "llama")
    problems = [
        {"question": f"Amy has {n} pens and buys 2.", "answer": f"{n} + 2\n#### {n + 2}"}
        for n in range(40)
    ]
    rows.write_text("".join(json.dumps(row) + "\n" for row in problems))
    config = smollm2_config.get_config()
    data = dataclasses.replace(
        config.data, source=str(rows), split="train[:30]", answer_length=24, max_length=80
    )
    config = dataclasses.replace(
        config,
        data=data,
        validation=dataclasses.replace(data, split="train[30:]"),
        optimizer=dataclasses.replace(config.optimizer, learning_rate=1e-2),
        accumulate=1,
        execution=Execution(scan_layers=False),
    )
    folder = tmp_path / "kept"
    blocks = Diffusion(block_length=smollm2_config.BLOCK_LENGTH)
    convert(source, folder / "start", diffusion=blocks)
    timed = dataclasses.replace(config, init=str(folder / "start"))
    kept = folder / "seconds_per_update.txt"
    seconds = smollm2_block.seconds_per_update(timed, kept)
    assert seconds == float(kept.read_text()) > 0
    # It is not timed again, so this is the time of 30 updates.
    metrics, settings = smollm2_block.measure(config, source, folder, 30 * seconds / 60)
    assert settings["updates"] == 30
    assert metrics["seconds_per_update"] == seconds
    model = load_config(folder / "start")
    assert (model.attention, model.block_length, model.blocks) == ("block", 8, "sequence")
    assert load_config(folder / "trained" / "model") == model
    assert load_config(folder / "random_init" / "model") == model
    # Random weights are as good as a draw, and 30 updates learn what all answers have in common.
    assert metrics["nll_before"] > 0.8 * math.log(200)
    assert metrics["nll_after"] < 0.5 * metrics["nll_before"]
    assert metrics["nll_random_init_after"] < metrics["nll_before"]
    tokenizer = Tokenizer.load(folder / "start")
    (batch,) = pipeline.eval_batches(
        dataclasses.replace(data, split="train[:1]", batch_size=1), tokenizer
    )
    text = smollm2_block.without_tail(batch, model.end_ids)
    assert tokenizer.decode(batch["tokens"][text].tolist()) == "0 + 2\n#### 2"
    assert text.sum() == len("0 + 2\n#### 2") + 1  # tokens are bytes; the end of the turn
    prompts = [len(tokenizer.prompt(row["question"])) for row in problems]
    read = np.array(prompts) + [len(row["answer"]) + 1 for row in problems]
    rows_read = 30 * config.data.batch_size
    assert rows_read * read.min() <= metrics["tokens_trained"] <= rows_read * read.max()
