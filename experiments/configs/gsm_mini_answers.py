"""The bundled teacher's own right answers to the questions that its student learns from.

python -m launch.answer --config=experiments/configs/gsm_mini_answers.py

What it wrote is bundled, for distillation to start at once; with the same settings nothing is
written anew. It took 200 s on two cores with other work beside it.
"""

from __future__ import annotations

from cd4lm_jax.evaluation.answers import AnswersConfig
from experiments.configs.gsm_mini import ANSWERS, TEACHER


def get_config() -> AnswersConfig:
    """Answers by CAD at 0.9, where validation problems are right as often as token by token."""
    return AnswersConfig(output=ANSWERS, model=TEACHER)
