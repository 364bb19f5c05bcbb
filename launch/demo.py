"""The main job on the bundled teacher: distil, decode both ways, table and report.

    python -m launch.demo

The same as launch.distill and launch.evaluate with the configs of gsm_mini, one after the other.
A run that was interrupted continues.
"""

from __future__ import annotations

import dataclasses

from cd4lm_jax.distillation.trainer import TrainConfig
from cd4lm_jax.evaluation.sweep import SweepConfig
from experiments.configs import gsm_mini, gsm_mini_eval
from launch import common, distill, evaluate, training


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The two halves of the demo."""

    distill: TrainConfig = gsm_mini.get_config()
    evaluate: SweepConfig = gsm_mini_eval.get_config()


def main(config: DemoConfig) -> None:
    """Distils, then evaluates."""
    distill.main(config.distill)
    if not training.DRY_RUN.value:
        evaluate.main(config.evaluate)


if __name__ == "__main__":
    common.run(main, DemoConfig)
