"""Distils the bundled teacher of gsm_mini with DSCD: what `make demo` runs.

python -m launch.distill --config=experiments/configs/gsm_mini.py
"""

from __future__ import annotations

from cd4lm_jax.corruption.masking import Corruption
from cd4lm_jax.data.pipeline import DataConfig
from cd4lm_jax.distillation.curriculum import LambdaCurriculum
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.step import OptimizerConfig
from cd4lm_jax.distillation.trainer import TrainConfig
from cd4lm_jax.model.transformer import Execution

TEACHER = "experiments/checkpoints/gsm_mini_teacher"
OUTPUT = "runs/demo"


def get_config() -> TrainConfig:
    """The published recipe (nested masks, lambda 0.9 to 0.5, T 2) at a small model's rate."""
    return TrainConfig(
        output=OUTPUT,
        steps=300,
        init=TEACHER,
        teacher=TEACHER,
        corruption=Corruption(scheme="nested"),
        objective=Objective(temperature=2.0),
        curriculum=LambdaCurriculum(initial=0.9, final=0.5, warmup_ratio=0.1),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=20, decay_share=0.5, b2=0.98),
        data=DataConfig(source="gsm_mini/distill", split="distill", batch_size=32),
        validation=DataConfig(source="gsm_mini/distill", split="validation", batch_size=100),
        execution=Execution(scan_layers=False),
        eval_every=100,
        patience=15,
    )
