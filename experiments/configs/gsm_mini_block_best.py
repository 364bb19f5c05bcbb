"""Distils the block-diffusion teacher of gsm_mini on-policy.

    cd4lm distill --config=gsm_mini_block_best

The recipe of gsm_mini_best.py; the student's rollouts are in the model's own blocks. Not run yet.
"""

from __future__ import annotations

import dataclasses

from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.rollout import Rollout

from . import gsm_mini_best, gsm_mini_block, gsm_mini_block_teacher

OUTPUT = "runs/gsm_mini_block_best"


def get_config() -> TrainConfig:
    """The student of gsm_mini_block.py, but for what it learns."""
    config = gsm_mini_best.recipe(gsm_mini_block.get_config())
    assert isinstance(config.corruption, Rollout)
    states = dataclasses.replace(
        config.corruption, block_length=gsm_mini_block_teacher.BLOCK_LENGTH
    )
    return dataclasses.replace(config, output=OUTPUT, corruption=states)
