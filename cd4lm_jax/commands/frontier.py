r"""Draws evaluations and published figures as curves of accuracy against speed.

    cd4lm frontier --runs=runs/demo,runs/other \
        --peers=experiments/peers/llada_8b_gsm8k.json --output=runs/frontier

Prints a table for each task, with the points that nothing beats and the AUP (accuracy under
parallelism) of each curve, and writes frontier.png and frontier.html. Only curves of the same task
are compared; published figures are marked as such and never ranked with measured ones.
"""

from __future__ import annotations

import pathlib
from typing import NoReturn

from absl import flags

from cd4lm_jax.commands import common, output
from cd4lm_jax.evaluation.report import curves, overlay

_RUNS = flags.DEFINE_list("runs", [], "Output folders of `cd4lm evaluate`, comma-separated.")
_PEERS = flags.DEFINE_list(
    "peers", [], "JSON files of published figures, such as those in experiments/peers."
)


def main() -> None:
    """Reads, prints, writes."""
    target = common.given(output.OUTPUT)
    if not _RUNS.value and not _PEERS.value:
        raise common.UsageError("give --runs or --peers; --help says what they are")
    found = []
    for folder, label in zip(_RUNS.value, _labels(_RUNS.value), strict=True):
        found += curves.read_evaluation(folder, label)
    for file in _PEERS.value:
        found += curves.read_peers(file)
    overlay.print_frontier(found)
    overlay.write(target, found)
    print(f"page: {target}/frontier.html")


def _labels(folders: list[str]) -> list[str]:
    """What distinguishes evaluations: nothing for a single one, else their folders' names."""
    if len(folders) == 1:
        return [""]
    names = [pathlib.Path(folder).name for folder in folders]
    return names if len(set(names)) == len(names) else folders


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main)
