"""Distils a student from a frozen teacher with DSCD.

    python -m launch.distill --config=experiments/configs/gsm_mini.py

Started again with the same output folder, it continues where it stopped.
"""

from __future__ import annotations

from cd4lm_jax.distillation.trainer import TrainConfig, train
from launch import common


def main(config: TrainConfig) -> None:
    """Distils and says where the student is."""
    if config.teacher is None:
        raise ValueError(
            "this config names no teacher, so there is nothing to distil; set config.teacher, or "
            "use launch.pretrain to train on text alone"
        )
    result = train(config)
    print(f"validation loss {result.best_loss:.4f} at step {result.best_step}: {result.folder}")


if __name__ == "__main__":
    common.run(main, TrainConfig)
