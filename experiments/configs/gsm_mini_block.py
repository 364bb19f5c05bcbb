"""Distils the block-diffusion teacher of gsm_mini with DSCD.

    cd4lm distill --config=gsm_mini_block

Its teacher is what gsm_mini_block_teacher.py trains. Student and teacher are shown nested masks of
every block, and both attend the finished blocks before it. Not run yet.
"""

from __future__ import annotations

import dataclasses

from cd4lm_jax.corruption.masking import NestedMasks
from cd4lm_jax.distillation.config import TrainConfig

from . import gsm_mini, gsm_mini_block_teacher

OUTPUT = "runs/gsm_mini_block"
TEACHER = f"{gsm_mini_block_teacher.OUTPUT}/model"


def get_config() -> TrainConfig:
    """The demo's distillation, with masks that no block needs to follow."""
    return dataclasses.replace(
        gsm_mini.get_config(),
        output=OUTPUT,
        init=TEACHER,
        teacher=TEACHER,
        corruption=NestedMasks(student_ratio=(0.5, 1.0)),
    )
