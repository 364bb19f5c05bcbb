"""Trains a masked-diffusion language model from scratch, such as the bundled teacher.

    cd4lm pretrain --config=gsm_mini_teacher

Started again with the same output folder, it continues where it stopped. On a cluster, the same
command runs on every host; the output folder is one that they share.
"""

from __future__ import annotations

from typing import NoReturn

from cd4lm_jax.commands import common, training
from cd4lm_jax.distillation.config import TrainConfig


def main(config: TrainConfig) -> None:
    """Trains and says where the model is."""
    training.run(config)


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main, TrainConfig)
