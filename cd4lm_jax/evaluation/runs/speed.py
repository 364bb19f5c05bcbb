"""Passes, tokens a pass, tokens a second and speed-up: the only place where they are computed.

The definitions are those of the fields of `Speed`. Papers and code bases count differently (the
tail of EOS tokens in or out, one placeholder pass a sample, compilation in the time), so a number
that is printed anywhere comes from `measure`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.evaluation.statistics import spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast one run over a set of problems was.

    TPF and canvas TPF are means of the problems' ratios, not ratios of the run's sums: a
    problem weighs the same however long its answer, as it does in the accuracy, and the number
    does not change with how problems were batched. (The ratio of sums would be
    `tokens / nfe` of this object.)

    Attributes:
        problems: number of problems.
        nfe: forward passes a problem, mean.
        tokens: generated tokens before the first EOS or EOT a problem, mean.
        tpf: tokens per forward pass, mean over problems of tokens / nfe.
        canvas_tpf: mean over problems of generation length / nfe, the tail counted as some papers
            do.
        seconds: wall-clock time of decoding all problems, compilation and first call excluded, the
            median where it was measured several times; None where it was not measured, and then
            none of the following is.
        tps: tokens of all problems / seconds. It depends on batch size and device: state them.
        tps_interval: its lowest and highest value; None for a single timing.
        speedup: wall-clock time of the baseline (same problems, lengths, batch and process) over
            this run's, the median of the turns; None without a baseline.
        speedup_interval: its lowest and highest value; None for a single timing.
    """

    problems: int
    nfe: float
    tokens: float
    tpf: float
    canvas_tpf: float
    seconds: float | None = None
    tps: float | None = None
    tps_interval: list[float] | None = None
    speedup: float | None = None
    speedup_interval: list[float] | None = None

    def as_row(self) -> dict[str, Any]:
        """The fields that a row of summary.json holds; what was not measured is absent."""
        inner = ("tokens", "seconds")
        fields = dataclasses.asdict(self).items()
        return {name: value for name, value in fields if name not in inner and value is not None}


def tokens_per_pass(trajectory: Trajectory) -> npt.NDArray[np.float64]:
    """TPF of every problem, float64 [N]: tokens before the first EOS or EOT / forward passes.

    Raises:
        ValueError: a problem without a forward pass.
    """
    _passes(trajectory)
    return trajectory.tokens_per_pass


def canvas_per_pass(trajectory: Trajectory) -> npt.NDArray[np.float64]:
    """Canvas TPF of every problem, float64 [N]: generation length / forward passes.

    Raises:
        ValueError: a problem without a forward pass.
    """
    return trajectory.gen_length / _passes(trajectory)


def measure(
    trajectory: Trajectory,
    *,
    seconds: float | Sequence[float] | None,
    baseline_seconds: float | Sequence[float] | None = None,
) -> Speed:
    """The speed of a run.

    Args:
        trajectory: the run's decodes, all of them.
        seconds: wall-clock time of decoding them, compilation and first call excluded, or several
            timings in turn with those of the baseline; None where several processes shared the
            work.
        baseline_seconds: the same for the baseline on the same problems, lengths and batch size,
            measured in this process; the baseline itself passes its own seconds and gets 1.

    Raises:
        ValueError: no problem, a problem without a forward pass, seconds that are not positive, or
            not as many of the baseline as of the run.

    Two problems, four generated positions each: the first takes two passes for three tokens and an
    end, the second one pass for a token, an end and a tail of two that is filled.

    >>> decodes = Trajectory(
    ...     tokens=[[11, 12, 13, 0], [21, 0, 0, 0]],
    ...     committed_at=[[1, 1, 2, 2], [1, 1, 0, 0]],
    ...     confidence=[[0.9, 0.9, 0.8, 0.9], [0.9, 0.9, 0.0, 0.0]],
    ...     reason=[[1, 1, 1, 1], [1, 1, 0, 0]],
    ...     nfe=[2, 1],
    ...     length=[3, 1],
    ... )
    >>> speed = measure(decodes, seconds=0.5, baseline_seconds=2.0)
    >>> speed.nfe, speed.tpf, speed.canvas_tpf, speed.tps, speed.speedup
    (1.5, 1.25, 3.0, 8.0, 4.0)
    """
    if not len(trajectory):
        raise ValueError("speed: the trajectory holds no problem, expected at least one")
    tokens = trajectory.length.astype(np.float64)
    untimed = Speed(
        problems=len(trajectory),
        nfe=float(trajectory.nfe.mean()),
        tokens=float(tokens.mean()),
        tpf=float(tokens_per_pass(trajectory).mean()),
        canvas_tpf=float(canvas_per_pass(trajectory).mean()),
    )
    if seconds is None:
        return untimed
    times = _timings("seconds", seconds)
    total = float(tokens.sum())
    rate = [total / time for time in times]
    timed = dataclasses.replace(
        untimed,
        seconds=spread.spread(times).median,
        tps=total / spread.spread(times).median,
        tps_interval=[min(rate), max(rate)] if len(times) > 1 else None,
    )
    if baseline_seconds is None:
        return timed
    ratio = spread.ratios(_timings("baseline_seconds", baseline_seconds), times)
    return dataclasses.replace(timed, speedup=ratio.median, speedup_interval=ratio.interval)


def _timings(name: str, seconds: float | Sequence[float]) -> list[float]:
    """One timing or several as a list."""
    times = [seconds] if isinstance(seconds, int | float) else [*seconds]
    for value in times:
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"speed: {name} is {value}, expected a positive number of seconds")
    return times


def _passes(trajectory: Trajectory) -> npt.NDArray[np.float64]:
    """Forward passes of every problem, each at least one."""
    if (idle := np.flatnonzero(trajectory.nfe < 1)).size:
        raise ValueError(
            f"speed: problem {int(idle[0])} has nfe {int(trajectory.nfe[idle[0]])}, expected at "
            "least one forward pass"
        )
    return trajectory.nfe.astype(np.float64)
