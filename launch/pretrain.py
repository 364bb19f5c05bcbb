"""Trains a masked-diffusion language model from scratch, such as the bundled teacher.

    python -m launch.pretrain --config=experiments/configs/gsm_mini_teacher.py

Started again with the same output folder, it continues where it stopped. On a cluster, the same
command runs on every host; the output folder is one that they share.
"""

from __future__ import annotations

from cd4lm_jax.distillation.trainer import TrainConfig
from launch import common, training


def main(config: TrainConfig) -> None:
    """Trains and says where the model is."""
    training.run(config)


if __name__ == "__main__":
    common.run(main, TrainConfig)
