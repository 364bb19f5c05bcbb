"""Distils the bundled teacher of gsm_mini by d3LLM's recipe (2601.07568).

    cd4lm distill --config=gsm_mini_d3llm

Hardware: made for two CPU cores, as gsm_mini.py. It was not run to its end yet.
"""

from __future__ import annotations

import dataclasses

from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.curriculum import LambdaCurriculum
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.pseudo_trajectory import PseudoTrajectory

from . import gsm_mini

OUTPUT = "runs/d3llm"


def d3llm(config: TrainConfig) -> TrainConfig:
    """Another distillation's rows and updates by d3LLM's recipe.

    Published: the text alone, in the order in which the teacher decodes it, in windows of 16 to 32
    tokens of which 0 to 80 % are masked at first and 80 % at last; entropy regularisation with
    weight 2. Changed: the teacher commits a window in four passes instead of one token a pass;
    entropy is at temperature 1 instead of 0.5; a state or its complement for half of the rows each
    instead of both for all; the rows, optimizer and all parameters of the other recipes here
    instead of LoRA.
    """
    return dataclasses.replace(
        config,
        corruption=PseudoTrajectory(),
        objective=Objective(temperature=1.0, visible="text", entropy_weight=2.0),
        curriculum=LambdaCurriculum(initial=0.0, final=0.0),
        patience=0,
    )


def get_config() -> TrainConfig:
    """The demo's first student, but for what it learns."""
    return dataclasses.replace(d3llm(gsm_mini.get_config()), output=OUTPUT)
