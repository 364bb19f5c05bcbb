"""The teacher of gsm_mini as a block-diffusion model: the same size, in blocks of 16.

    cd4lm pretrain --config=gsm_mini_block_teacher

Every block is learned behind the finished ones (BD3-LM, 2503.09573), which takes a pass over twice
the positions; decoding then computes a finished block once (`--cache=prefix`, exact). Not run yet.
"""

from __future__ import annotations

import dataclasses

from cd4lm_jax.corruption.masking import DiffusionMasks
from cd4lm_jax.distillation.config import TrainConfig

from . import gsm_mini_teacher

OUTPUT = "runs/gsm_mini_block_teacher"
BLOCK_LENGTH = 16


def get_config() -> TrainConfig:
    """The bidirectional teacher's run, but for how it attends."""
    config = gsm_mini_teacher.get_config()
    assert config.model is not None
    model = dataclasses.replace(
        config.model, attention="block", block_length=BLOCK_LENGTH, blocks="sequence"
    )
    masks = DiffusionMasks(weighting="mean")
    return dataclasses.replace(config, output=OUTPUT, model=model, corruption=masks)
