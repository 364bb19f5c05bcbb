r"""Says whether two runs of `cd4lm evaluate` differ, or match within a margin.

    cd4lm compare --a="runs/demo/runs/student confidence:0.95" \
        --b="runs/demo/runs/teacher fixed:1" --margin=0.01

Both must have answered the same problems, which are matched by id. McNemar's exact test asks
whether chance alone would share out so the problems that one run alone has right; the interval of
the difference (paired bootstrap, 95 %) says whether --a can be worse by more than the margin.
"""

from __future__ import annotations

from typing import NoReturn

from absl import flags

from cd4lm_jax.commands import common
from cd4lm_jax.evaluation.runs import pairs
from cd4lm_jax.evaluation.statistics import bootstrap, comparison

_A = flags.DEFINE_string("a", None, "Folder of a run, or of an evaluation that holds one run.")
_B = flags.DEFINE_string("b", None, "The same of the run that it is compared with.")
_MARGIN = flags.DEFINE_float("margin", 0.01, "Share of problems that counts as no worse.")


def main() -> None:
    """Reads, tests, says what follows."""
    a, b = pairs.read_pair(common.given(_A), common.given(_B))
    found = comparison.compare(a.correct, b.correct)
    verdict = found.verdict(_MARGIN.value, "a", "b")
    for name, side in (("a", a), ("b", b)):
        right, total = int(side.correct.sum()), len(side.correct)
        share = f"{right / total:.1%} right ({right:,} of {total:,})"
        print(f"{name}: {share}, {side.nfe.mean():.1f} passes a problem: {side.folder}")
    print(found)
    ratio = bootstrap.paired_ratio(a.nfe, b.nfe)
    print(f"passes, a over b: {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")
    print(verdict)


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main)
