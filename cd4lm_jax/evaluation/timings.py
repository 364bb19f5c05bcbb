"""Runs timed again and again in turn, so that a speed-up has a spread and not one lucky value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.evaluation.runs import speed
from cd4lm_jax.evaluation.runs.run import Run, timed_again
from cd4lm_jax.evaluation.runs.speed import Speed
from cd4lm_jax.language_model import LanguageModel


def in_turn(
    models: Mapping[str, LanguageModel],
    runs: Sequence[Run],
    problems: Sequence[Problem],
    *,
    turns: int,
) -> list[Speed]:
    """The speed of runs, each decoded once a turn by this process, nothing kept.

    Args:
        models: by what the runs call them.
        runs: the baseline, then what is compared with it; all of at least these problems.
        problems: the first of those that the runs answered.
        turns: timings of each run.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(turns):
        for run, times in zip(runs, seconds, strict=True):
            times.append(timed_again(models[run.model], problems, run.config))
    return [
        speed.measure(
            run.trajectory.rows(slice(len(problems))), seconds=times, baseline_seconds=seconds[0]
        )
        for run, times in zip(runs, seconds, strict=True)
    ]


def sentence(run: Run, baseline: Run, measured: Speed, *, turns: int) -> str:
    """How much faster than the baseline a run is, with the spread of the turns."""
    spread = ""
    if measured.speedup_interval:
        low, high = measured.speedup_interval
        spread = f" [{low:.1f}, {high:.1f}]"
    return (
        f"Timed in turn with {baseline.name} on {measured.problems} problems, {run.name} is "
        f"{measured.speedup:.1f}× as fast{spread} (median and range of {turns} turns)."
    )
