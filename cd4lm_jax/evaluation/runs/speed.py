"""Passes, tokens a pass, tokens a second and speed-up: the only place where they are computed.

The definitions are those of DESIGN.md, "Counting". Papers and code bases count differently (the
tail of EOS tokens in or out, one placeholder pass a sample, compilation in the time), so a number
that is printed anywhere comes from `measure`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from cd4lm_jax.decoding.trajectory import Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast one run over a set of problems was.

    TPF and canvas TPF are means of the problems' own ratios, not ratios of the run's sums: a
    problem weighs the same however long its answer, as it does in the accuracy, and the number
    does not change with how problems were batched. (The ratio of sums would be
    ``tokens / nfe`` of this object.)

    Attributes:
      problems: number of problems.
      nfe: forward passes a problem, mean.
      tokens: generated tokens before the first EOS or EOT a problem, mean.
      tpf: tokens per forward pass, mean over problems of tokens / nfe.
      canvas_tpf: mean over problems of generation length / nfe, the tail counted as some papers do.
      seconds: wall clock of decoding all problems, compilation and first call excluded; None where
        it was not measured, and then neither are the two below.
      tps: tokens of all problems / seconds. It depends on batch size and device: state them.
      speedup: wall clock of the fixed-step baseline (one token a pass, same problems, lengths,
        batch and process) / seconds; None without a baseline.
    """

    problems: int
    nfe: float
    tokens: float
    tpf: float
    canvas_tpf: float
    seconds: float | None
    tps: float | None
    speedup: float | None

    def as_row(self) -> dict[str, Any]:
        """The fields that a row of summary.json holds; what was not measured is absent."""
        names = ("nfe", "tpf", "canvas_tpf", "tps", "speedup", "problems")
        return {n: getattr(self, n) for n in names if getattr(self, n) is not None}


def tokens_per_pass(trajectory: Trajectory) -> npt.NDArray[np.float64]:
    """TPF of every problem, float64 [N]: tokens before the first EOS or EOT / forward passes.

    Raises:
      ValueError: a problem without a forward pass.
    """
    return trajectory.length / _passes(trajectory)


def canvas_per_pass(trajectory: Trajectory) -> npt.NDArray[np.float64]:
    """Canvas TPF of every problem, float64 [N]: generation length / forward passes.

    Raises:
      ValueError: a problem without a forward pass.
    """
    return trajectory.gen_length / _passes(trajectory)


def measure(
    trajectory: Trajectory, *, seconds: float | None, baseline_seconds: float | None = None
) -> Speed:
    """The speed of a run.

    Args:
      trajectory: the run's decodes, all of them.
      seconds: wall clock of decoding them, compilation and first call excluded; None where several
        processes shared the work.
      baseline_seconds: the same for the fixed-step baseline of one token a pass on the same
        problems, lengths and batch size, measured in this process; the baseline itself passes
        its own seconds and gets 1.

    Raises:
      ValueError: no problem, a problem without a forward pass, seconds that are not positive.

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
    for name, value in (("seconds", seconds), ("baseline_seconds", baseline_seconds)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ValueError(f"speed: {name} is {value}, expected a positive number of seconds")
    tokens = trajectory.length.astype(np.float64)
    speedup = None
    if seconds is not None and baseline_seconds is not None:
        speedup = float(baseline_seconds / seconds)
    return Speed(
        problems=len(trajectory),
        nfe=float(trajectory.nfe.mean()),
        tokens=float(tokens.mean()),
        tpf=float(tokens_per_pass(trajectory).mean()),
        canvas_tpf=float(canvas_per_pass(trajectory).mean()),
        seconds=seconds,
        tps=None if seconds is None else float(tokens.sum() / seconds),
        speedup=speedup,
    )


def _passes(trajectory: Trajectory) -> npt.NDArray[np.float64]:
    """Forward passes of every problem, each at least one."""
    if (idle := np.flatnonzero(trajectory.nfe < 1)).size:
        raise ValueError(
            f"speed: problem {int(idle[0])} has nfe {int(trajectory.nfe[idle[0]])}, expected at "
            "least one forward pass"
        )
    return trajectory.nfe.astype(np.float64)
