"""Compares the bundled teacher with the student of gsm_mini.py: the demo's table.

    python -m launch.evaluate --config=experiments/configs/gsm_mini_eval.py

Hardware and time: two CPU cores, a part of the 6.8 minutes of `make demo`. Measured: the table of
README.md.
"""

from __future__ import annotations

from cd4lm_jax.evaluation.sweep import SweepConfig
from experiments.configs.gsm_mini import OUTPUT, TEACHER


def get_config() -> SweepConfig:
    """500 test problems; thresholds chosen on validation."""
    return SweepConfig(
        output="runs/demo", teacher=TEACHER, student=f"{OUTPUT}/model", training=OUTPUT
    )
