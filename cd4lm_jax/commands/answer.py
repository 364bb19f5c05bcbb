"""Writes a model's own right answers to the questions of a dataset, to distil on.

    cd4lm answer --config=gsm_mini_answers

The output folder gets a JSONL file for each split, which a config names as its data.source.
"""

from __future__ import annotations

from typing import NoReturn

from cd4lm_jax.checkpoints.loading import load_config
from cd4lm_jax.commands import common
from cd4lm_jax.evaluation.answers import AnswersConfig, write_answers
from cd4lm_jax.runtime import devices


def main(config: AnswersConfig) -> None:
    """Answers, keeps what is right, says how much that is."""
    devices.announce(dtype="float32", parameters=load_config(config.model).num_parameters)
    for split, count in write_answers(config).items():
        kept, asked = count["kept"], count["asked"]
        print(f"{config.output}/{split}.jsonl: {kept:,} right answers to {asked:,} questions")


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main, AnswersConfig)
