"""One model decoding one set of problems under one commit rule: what it got right, how fast."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cd4lm_jax.data.sources import Example
from cd4lm_jax.decoding.commit import CommitRule, ConfidenceAdaptive, FixedStep
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.evaluation import scoring, speed
from cd4lm_jax.language_model import LanguageModel, decode

Judge = Callable[[Sequence[str]], npt.NDArray[np.bool_]]
"""From the outputs of all problems, in their order, to whether each is right."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """Lengths and limits that all runs of a comparison share.

    Attributes:
        gen_length: generated positions.
        block_length: positions decoded together.
        max_tokens: CAD's most tokens a pass.
        eos_gate_ratio: CAD's EOS gate.
        batch_size: problems decoded at once.
    """

    gen_length: int = 64
    block_length: int = 32
    max_tokens: int = 32
    eos_gate_ratio: float = 0.0
    batch_size: int = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What :func:`fixed_step` and :func:`confidence` return.

    Attributes:
        name: a label for people.
        model: ``teacher`` or ``student``.
        commit: the rule in short: ``fixed:1``, ``confidence:0.9``.
        trajectory: one row a problem.
        seconds: wall clock of decoding.
        outputs: answers as text.
        correct: bool, one a problem.
    """

    name: str
    model: str
    commit: str
    trajectory: Trajectory
    seconds: float
    outputs: list[str]
    correct: npt.NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        """Share of problems answered right."""
        return float(self.correct.mean())

    def row(self, baseline_seconds: float | None = None) -> dict[str, Any]:
        """The run as a row of ``summary.json``."""
        accuracy = scoring.accuracy(self.correct)
        measured = speed.measure(
            self.trajectory, seconds=self.seconds, baseline_seconds=baseline_seconds
        )
        return {
            "name": self.name,
            "model": self.model,
            "commit": self.commit,
            "accuracy": accuracy.value,
            "accuracy_interval": accuracy.interval,
            **measured.as_row(),
        }


def fixed_step(
    model: LanguageModel,
    who: str,
    problems: Sequence[Example],
    settings: DecodeSettings,
    tokens_per_pass: int,
    judge: Judge | None = None,
) -> Run:
    """The baseline: so many tokens every pass until the whole generation is filled.

    Answers are judged as GSM8K's unless a judge is given.

    Raises:
        ValueError: a block cannot be shared out evenly.
    """
    if tokens_per_pass < 1 or settings.block_length % tokens_per_pass:
        raise ValueError(
            f"{tokens_per_pass} tokens a pass do not divide block_length={settings.block_length}; "
            "give a divisor of it"
        )
    rule = FixedStep(steps=settings.gen_length // tokens_per_pass)
    label = f"fixed:{tokens_per_pass}"
    return _run(model, who, problems, settings, rule, label, judge, stop_at_eos=False)


def confidence(
    model: LanguageModel,
    who: str,
    problems: Sequence[Example],
    settings: DecodeSettings,
    threshold: float,
    judge: Judge | None = None,
) -> Run:
    """CAD at a threshold, each problem until its answer ends; judged as by `fixed_step`."""
    most = min(settings.max_tokens, settings.block_length)
    rule = ConfidenceAdaptive(threshold=threshold, max_tokens=most)
    label = f"confidence:{threshold}"
    return _run(model, who, problems, settings, rule, label, judge, stop_at_eos=True)


def _run(
    model: LanguageModel,
    who: str,
    problems: Sequence[Example],
    settings: DecodeSettings,
    rule: CommitRule,
    label: str,
    judge: Judge | None,
    *,
    stop_at_eos: bool,
) -> Run:
    decoded = decode(
        model,
        [problem["question"] for problem in problems],
        commit=rule,
        gen_length=settings.gen_length,
        block_length=settings.block_length,
        stop_at_eos=stop_at_eos,
        eos_gate_ratio=settings.eos_gate_ratio if stop_at_eos else 0.0,
        batch_size=settings.batch_size,
    )
    if judge is None:
        correct = scoring.score(decoded.text, [problem["answer"] for problem in problems])
    else:
        correct = judge(decoded.text)
    return Run(
        name=f"{who} {label}",
        model=who,
        commit=label,
        trajectory=decoded.trajectory,
        seconds=decoded.seconds,
        outputs=decoded.text,
        correct=correct,
    )
