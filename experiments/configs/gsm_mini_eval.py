"""Compares the bundled teacher with the students of gsm_mini.py and gsm_mini_best.py.

    cd4lm evaluate --config=gsm_mini_eval

Hardware and time: two CPU cores, a part of `make demo`, whose table it prints. Measured: README.md.
"""

from __future__ import annotations

from cd4lm_jax.evaluation.sweep import SweepConfig

from . import gsm_mini_best
from .gsm_mini import OUTPUT, TEACHER


def get_config() -> SweepConfig:
    """500 test problems; thresholds chosen on validation."""
    return SweepConfig(
        output="runs/demo",
        teacher=TEACHER,
        student=f"{OUTPUT}/model",
        best=f"{gsm_mini_best.OUTPUT}/model",
        training=OUTPUT,
    )
