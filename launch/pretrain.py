"""Trains a masked-diffusion language model from scratch, such as the bundled teacher.

    python -m launch.pretrain --config=experiments/configs/gsm_mini_teacher.py

Started again with the same output folder, it continues where it stopped.
"""

from __future__ import annotations

from cd4lm_jax.distillation.trainer import TrainConfig, train
from launch import common


def main(config: TrainConfig) -> None:
    """Trains and says where the model is."""
    result = train(config)
    print(f"validation loss {result.best_loss:.4f} at step {result.best_step}: {result.folder}")


if __name__ == "__main__":
    common.run(main, TrainConfig)
