"""A run that learns eight problems by heart in half a second of steps."""

from __future__ import annotations

import dataclasses
import json
import pathlib

from cd4lm_jax.corruption.masking import DiffusionMasks
from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.data.pipeline import DataConfig
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.optimizer import OptimizerConfig
from cd4lm_jax.models.transformer import Execution
from tests import exported

STEPS = 30
MODEL = dataclasses.replace(exported.config(), num_layers=1)


def config(folder: pathlib.Path) -> TrainConfig:
    """Its settings; the problems are written to `folder`, `output` is not there yet."""
    rows = [
        {"question": f"Amy has {n} pens. She buys 2. How many?", "answer": f"#### {n + 2}"}
        for n in range(8)
    ]
    source = folder / "pens.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(source=str(source), answer_length=16, max_length=64, batch_size=4)
    return TrainConfig(
        output=str(folder / "run"),
        steps=STEPS,
        model=MODEL,
        tokenizer=str(vocabulary.FOLDER),
        corruption=DiffusionMasks(weighting="mean"),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=5),
        data=data,
        validation=dataclasses.replace(data, batch_size=8),
        execution=Execution(scan_layers=False),
        log_every=5,
        eval_every=10,
    )
