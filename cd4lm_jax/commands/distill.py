"""Distils a student from a frozen teacher with DSCD.

    cd4lm distill --config=gsm_mini

Started again with the same output folder, it continues where it stopped. On a cluster, the same
command runs on every host; the output folder is one that they share.
"""

from __future__ import annotations

from typing import NoReturn

from cd4lm_jax.commands import common, training
from cd4lm_jax.distillation.config import TrainConfig


def main(config: TrainConfig) -> None:
    """Distils and says where the student is."""
    if config.teacher is None:
        raise ValueError(
            "this config names no teacher, so there is nothing to distil; set config.teacher, or "
            "use `cd4lm pretrain` to train on text alone"
        )
    training.run(config)


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main, TrainConfig)
