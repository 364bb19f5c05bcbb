"""Writes a model's own answers to the questions of a dataset or of chats, to distil on.

    cd4lm answer --config=gsm_mini_answers
    cd4lm answer --config=chat_answers --config.model=DIR --config.source=chats.jsonl

The first keeps right answers. The second keeps answers that end and that the model was confident
of (keep=Confident) or gives in two decodes alike (keep=Agreeing).
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
    """Answers, keeps what is good, says how much that is."""
    placement = placement_flags.chosen(config.placement)
    with cluster.joined(hosts.described()):
        compilation.keep()
        placement_flags.announce(config.model, placement)
        kept = f"stopped; what was answered is in {config.output}, the same command continues"
        with interrupt.leaving_at_once(kept):
            counts = write_answers(dataclasses.replace(config, placement=placement))
        if cluster.is_main():
            for split, count in counts.items():
                kind = "right answers" if config.keep.judged else "answers kept"
                line = f"{count['kept']:,} {kind} to {count['asked']:,} questions"
                if left := count.get("too_long"):
                    line += f", {left:,} of them too long to be asked"
                print(f"{config.output}/{split}.jsonl: {line}")


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main, AnswersConfig)
