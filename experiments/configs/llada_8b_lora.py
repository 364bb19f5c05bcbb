r"""The recipe of llada_8b_gsm8k.py with adapters: 8B weights once, in bfloat16, for both models.

    cd4lm distill --config=llada_8b_lora \
        --config.init=DIR --config.teacher=DIR

DIR, the same twice, is a LLaDA-8B-Instruct folder as it comes from its hub.

Hardware: weights take 16 GB, adapters of rank 16 (42 million parameters) and their moments 0.5 GB:
one accelerator of 80 GB with --config.accumulate=16, or several. Time, by `cd4lm plan`, loading and
evaluation not counted: at least 1.85 s an update on one H100, 32 minutes for 1,050
(experiments/results/plan_lora_h100_1.json).

Expected: nothing is published of it. Not run by us: we do not have the weights.
"""

from __future__ import annotations

import dataclasses

from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.models.lora import LoraConfig

from . import llada_8b_gsm8k


def get_config() -> TrainConfig:
    """Ten epochs as there, adapters on all linear layers, a learning rate as LoRA needs it."""
    recipe = llada_8b_gsm8k.get_config()
    return dataclasses.replace(
        recipe,
        output="runs/llada_8b_lora",
        lora=LoraConfig(rank=16, alpha=32.0),
        optimizer=dataclasses.replace(recipe.optimizer, learning_rate=1e-4),
        accumulate=8,
    )
