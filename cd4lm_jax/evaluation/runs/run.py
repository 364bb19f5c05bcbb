"""One model decoding one set of problems under one commit rule: what it got right, how fast."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.data.sources import Example
from cd4lm_jax.decoding.rules import CommitRule, ConfidenceAdaptive, FixedStep
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.evaluation.judges import numbers
from cd4lm_jax.evaluation.runs import speed
from cd4lm_jax.evaluation.runs.journal import Answers
from cd4lm_jax.evaluation.runs.recorder import PROCESS, Recorder
from cd4lm_jax.evaluation.statistics import proportion
from cd4lm_jax.language_model import LanguageModel, decode
from cd4lm_jax.runtime import checksums

Judge = Callable[[Sequence[str], Sequence[Any]], npt.NDArray[np.bool_]]
"""From outputs and their problems to whether each is right, bool [N]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """Lengths and limits that all runs of a comparison share.

    Attributes:
        gen_length: generated positions.
        block_length: positions decoded together.
        max_tokens: CAD's most tokens a pass.
        eos_gate_ratio: CAD's EOS gate.
        batch_size: problems decoded at once.
        temperature: of the noise tokens are drawn with; 0 takes the best.
        seed: of that noise.
    """

    gen_length: int = 64
    block_length: int = 32
    max_tokens: int = 32
    eos_gate_ratio: float = 0.0
    batch_size: int = 16
    temperature: float = 0.0
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What :func:`fixed_step` and :func:`confidence` return.

    Attributes:
        name: a label for people.
        model: ``teacher`` or ``student``, or what the evaluation calls it.
        commit: the rule in short: ``fixed:1``, ``confidence:0.9``.
        trajectory: one row a problem.
        seconds: wall clock of decoding; None where several processes shared it.
        outputs: answers as text.
        correct: bool, one a problem.
        process: in which ``seconds`` were measured.
    """

    name: str
    model: str
    commit: str
    trajectory: Trajectory
    seconds: float | None
    outputs: list[str]
    correct: npt.NDArray[np.bool_]
    process: str = PROCESS

    @property
    def accuracy(self) -> float:
        """Share of problems answered right."""
        return float(self.correct.mean())

    def seconds_of(self, baseline: Run) -> float | None:
        """The baseline's seconds for :meth:`row`; None where another process measured them."""
        return baseline.seconds if baseline.process == self.process else None

    def row(self, baseline_seconds: float | None = None) -> dict[str, Any]:
        """The run as a row of ``summary.json``; what was not measured is absent."""
        accuracy = proportion.accuracy(self.correct)
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
    recorder: Recorder | None = None,
) -> Run:
    """The baseline: so many tokens every pass until the whole generation is filled.

    Answers are judged as GSM8K's unless a judge is given. With a recorder the run is kept as it
    goes, and goes on where it was; problems are then those of :mod:`cd4lm_jax.data.benchmarks`.

    Raises:
        ValueError: a block cannot be shared out evenly.
        JournalError: the run's folder holds another one.
    """
    if tokens_per_pass < 1 or settings.block_length % tokens_per_pass:
        raise ValueError(
            f"{tokens_per_pass} tokens a pass do not divide block_length={settings.block_length}; "
            "give a divisor of it"
        )
    rule = FixedStep(steps=settings.gen_length // tokens_per_pass)
    label = f"fixed:{tokens_per_pass}"
    return _run(model, who, problems, settings, rule, label, judge, recorder, fills=True)


def confidence(
    model: LanguageModel,
    who: str,
    problems: Sequence[Example],
    settings: DecodeSettings,
    threshold: float,
    judge: Judge | None = None,
    recorder: Recorder | None = None,
) -> Run:
    """CAD at a threshold, each problem until its answer ends; otherwise as `fixed_step`."""
    most = min(settings.max_tokens, settings.block_length)
    rule = ConfidenceAdaptive(threshold=threshold, max_tokens=most)
    label = f"confidence:{threshold}"
    return _run(model, who, problems, settings, rule, label, judge, recorder, fills=False)


def _run(
    model: LanguageModel,
    who: str,
    problems: Sequence[Example],
    settings: DecodeSettings,
    rule: CommitRule,
    label: str,
    judge: Judge | None,
    recorder: Recorder | None,
    *,
    fills: bool,
) -> Run:
    name, asked = f"{who} {label}", cast(Sequence[Problem], problems)
    prompts = [model.prompt_ids(p.get("prompt_ids", p["question"])) for p in asked]
    journal, parts = None, []
    size = len(asked)
    if recorder is not None:
        followed = _settings(model, asked, prompts, settings, label)
        journal = recorder.journal(name, followed, len(asked))
        size, earlier = recorder.chunk, journal.earlier()
        parts = [] if earlier is None else [earlier]
    begun, seconds = len(parts) > 0, 0.0
    for start in range(journal.count if journal else 0, len(asked), size):
        chunk = asked[start : start + size]
        before = time.perf_counter()
        decoded = decode(
            model,
            prompts[start : start + size],
            commit=rule,
            first=start,
            gen_length=settings.gen_length,
            block_length=settings.block_length,
            stop_at_eos=not fills,
            eos_gate_ratio=0.0 if fills else settings.eos_gate_ratio,
            temperature=settings.temperature,
            batch_size=settings.batch_size,
            seed=settings.seed,
        )
        spent = time.perf_counter() - before
        seconds += decoded.seconds
        part = Answers(
            outputs=decoded.text,
            correct=(judge or _number)(decoded.text, chunk),
            trajectory=decoded.trajectory,
        )
        parts.append(part)
        if recorder is not None and journal is not None:
            journal.append(chunk, part)
            right = np.concatenate([part.correct for part in parts]).mean()
            recorder.note(
                len(chunk),
                decoding=decoded.seconds,
                preparing=spent - decoded.seconds,
                right=float(right),
            )
    measured: dict[str, Any] = {"process": PROCESS, "seconds": None if begun else seconds}
    if journal is not None:
        if not begun:
            journal.timed(measured)
        measured = journal.time or measured
    answers = Answers.concatenate(parts)
    return Run(
        name=name,
        model=who,
        commit=label,
        trajectory=answers.trajectory,
        outputs=answers.outputs,
        correct=answers.correct,
        **measured,
    )


def _settings(
    model: LanguageModel,
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    settings: DecodeSettings,
    label: str,
) -> dict[str, Any]:
    """What a run's lines follow from; models and problems by their sums, so that folders move."""
    references = [[p["id"], p["question"], p["answer"], p["target"]] for p in problems]
    return {
        "model": model.fingerprint,
        "dtype": model.transformer.execution.dtype,
        "prompts": checksums.of_json(prompts),
        "references": checksums.of_json(references),
        "commit": label,
        **dataclasses.asdict(settings),
    }


def _number(outputs: Sequence[str], problems: Sequence[Any]) -> npt.NDArray[np.bool_]:
    return numbers.score(outputs, [problem["answer"] for problem in problems])
