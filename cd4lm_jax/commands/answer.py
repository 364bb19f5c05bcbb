"""Writes a model's correct answers to the questions of a dataset, to distil on.

    cd4lm answer --config=gsm_mini_answers

The output folder gets a JSONL file for each split, which a config names as its data.source. A run
that was interrupted continues with the same command; several hosts that share the folder share the
questions.
"""

from __future__ import annotations

import dataclasses
from typing import NoReturn

from cd4lm_jax.commands import common, compilation, hosts, placement_flags
from cd4lm_jax.evaluation.answers import AnswersConfig, write_answers
from cd4lm_jax.runtime import cluster, interrupt


def main(config: AnswersConfig) -> None:
    """Answers, keeps what is right, says how much that is."""
    placement = placement_flags.chosen(config.placement)
    with cluster.joined(hosts.described()):
        compilation.keep()
        placement_flags.announce(config.model, placement)
        kept = f"stopped; what was answered is in {config.output}, the same command continues"
        with interrupt.leaving_at_once(kept):
            counts = write_answers(dataclasses.replace(config, placement=placement))
        if cluster.is_main():
            for split, count in counts.items():
                right = f"{count['kept']:,} right answers to {count['asked']:,} questions"
                print(f"{config.output}/{split}.jsonl: {right}")


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main, AnswersConfig)
