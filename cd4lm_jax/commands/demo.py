"""The main job on the bundled teacher: distil twice, decode all ways, table and report.

    python -m launch.demo

The same as launch.distill and launch.evaluate with the configs of gsm_mini, one after the other:
the paper's DSCD as gsm_mini.py has it, and the recipe that needs the fewest passes. A run that was
interrupted continues.
"""

from __future__ import annotations

import dataclasses
from typing import NoReturn

from cd4lm_jax.commands import common, distill, evaluate, training
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.evaluation.sweep import SweepConfig
from experiments.configs import gsm_mini, gsm_mini_best, gsm_mini_eval


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The parts of the demo."""

    distill: TrainConfig = gsm_mini.get_config()
    best: TrainConfig = gsm_mini_best.get_config()
    evaluate: SweepConfig = gsm_mini_eval.get_config()


def main(config: DemoConfig) -> None:
    """Distils both students, then evaluates."""
    distill.main(config.distill)
    distill.main(config.best)
    if not training.DRY_RUN.value:
        evaluate.main(config.evaluate)


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main, DemoConfig)
