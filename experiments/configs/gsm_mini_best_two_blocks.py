"""Continues gsm_mini_best.py on rollouts in which both blocks of an answer are open.

    cd4lm distill --config=gsm_mini_best
    cd4lm distill --config=gsm_mini_best_two_blocks

Hardware and time: two CPU cores that other work shared. Measured: docs/frontier.md.
"""

from __future__ import annotations

import dataclasses

from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.rollout import Rollout

from . import gsm_mini, gsm_mini_best

OUTPUT = "runs/best_two_blocks"


def two_blocks(config: TrainConfig) -> TrainConfig:
    """An on-policy distillation continued with as many positions open as `lookahead=2` decodes.

    With `open_at=0` two blocks of 32 are open from the first pass, so a rollout that commits in 64
    positions visits the states of that decode. The student begins as one that commits a block in a
    pass, and what it has to learn is to agree with itself across two.
    """
    assert isinstance(config.corruption, Rollout)
    return dataclasses.replace(
        config,
        init=f"{gsm_mini_best.OUTPUT}/model",
        steps=150,
        eval_every=150,
        corruption=dataclasses.replace(config.corruption, block_length=64),
    )


def get_config() -> TrainConfig:
    """The recipe of gsm_mini_best.py, from its student, for 150 steps."""
    config = gsm_mini_best.recipe(gsm_mini.get_config())
    return dataclasses.replace(two_blocks(config), output=OUTPUT)
