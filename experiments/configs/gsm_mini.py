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
ANSWERS = "experiments/data/gsm_mini_answers"
OUTPUT = "runs/demo"


def get_config() -> TrainConfig:
    """DSCD with what paid on 200 validation problems, where 98 % right cost the teacher 5.9 passes.

    Published: nested masks, a strict subset for the teacher, lambda 0.9 to 0.5, AdamW, clipping.
    Changed: masks mostly in the shape of block decoding's states; text instead of the teacher's
    output where it sees the token, for which it was never trained; T 1; and the certainty term,
    without which wording with several right forms is committed a token a pass (98 % right in 3.8
    passes with it, 5.9 without, in the trials).
    """
    return TrainConfig(
        output=OUTPUT,
        steps=200,
        init=TEACHER,
        teacher=TEACHER,
        corruption=Corruption(
            scheme="nested", student_ratio=(0.5, 1.0), blockwise=0.7, block_length=32
        ),
        objective=Objective(temperature=1.0, visible="text", certainty=2.0),
        curriculum=LambdaCurriculum(initial=0.9, final=0.5, warmup_ratio=0.1),
        optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=20, decay_share=0.5, b2=0.98),
        data=DataConfig(source="gsm_mini/distill", split="distill", batch_size=32),
        validation=DataConfig(source="gsm_mini/distill", split="validation", batch_size=100),
        execution=Execution(scan_layers=False),
        eval_every=100,
        patience=15,
    )
