"""The main job on the bundled teacher: distil twice, decode all ways, table and report.

    cd4lm demo

The same as `cd4lm distill` and `cd4lm evaluate` with the configs of gsm_mini, one after the other:
DSCD as the paper has it (gsm_mini), then the recipe that needs the fewest passes (gsm_mini_best).
An interrupted demo continues. Results go to runs/demo of the working directory.
"""

from __future__ import annotations

import dataclasses
from typing import NoReturn

from cd4lm_jax.commands import common, distill, evaluate, training
from cd4lm_jax.commands.config_files import load_config
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.evaluation.sweep import SweepConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The parts of the demo."""

    distill: TrainConfig = load_config("gsm_mini", TrainConfig)
    best: TrainConfig = load_config("gsm_mini_best", TrainConfig)
    evaluate: SweepConfig = load_config("gsm_mini_eval", SweepConfig)


def main(config: DemoConfig) -> None:
    """Distils both students, then evaluates."""
    distill.main(config.distill)
    distill.main(config.best)
    if not training.DRY_RUN.value:
        evaluate.main(config.evaluate, brief=True)


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main, DemoConfig)
