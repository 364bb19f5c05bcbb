"""One model decoding one set of problems under one `DecodeConfig`: what is right, how fast."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.data.conversations import Example
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.evaluation.judges import numbers
from cd4lm_jax.evaluation.runs import speed
from cd4lm_jax.evaluation.runs.journal import Answers
from cd4lm_jax.evaluation.runs.recorder import PROCESS, Recorder
from cd4lm_jax.evaluation.statistics import proportion
from cd4lm_jax.language_model import LanguageModel, decode
from cd4lm_jax.runtime import checksums
from cd4lm_jax.settings.config import to_plain

Judge = Callable[[Sequence[str], Sequence[Any]], npt.NDArray[np.bool_]]
"""From outputs and their problems to whether each is right, bool [N]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What `execute` returns.

    Attributes:
        name: a label for people.
        model: `teacher` or `student`, or what the evaluation calls it.
        config: how the problems were decoded.
        trajectory: one row a problem.
        seconds: wall-clock time of decoding; None where several processes shared it.
        outputs: answers as text.
        correct: bool, one a problem.
        process: in which `seconds` were measured.
    """

    name: str
    model: str
    config: DecodeConfig
    trajectory: Trajectory
    seconds: float | None
    outputs: list[str]
    correct: npt.NDArray[np.bool_]
    process: str = PROCESS

    @property
    def accuracy(self) -> float:
        """Share of problems answered right."""
        return float(self.correct.mean())

    @property
    def timed_here(self) -> bool:
        """Whether this process decoded the whole run."""
        return self.process == PROCESS and self.seconds is not None

    def seconds_of(self, baseline: Run) -> float | None:
        """The baseline's seconds for `row`; None where another process measured them."""
        return baseline.seconds if baseline.process == self.process else None

    def row(self, baseline_seconds: float | None = None) -> dict[str, Any]:
        """The run as a row of `summary.json`; what was not measured is absent."""
        accuracy = proportion.accuracy(self.correct)
        measured = speed.measure(
            self.trajectory, seconds=self.seconds, baseline_seconds=baseline_seconds
        )
        return {
            "name": self.name,
            "model": self.model,
            "rule": self.config.label,
            "accuracy": accuracy.value,
            "accuracy_interval": accuracy.interval,
            **measured.as_row(),
        }


def name_of(who: str, config: DecodeConfig) -> str:
    """What the run of a model under a config is called."""
    return f"{who} {config.label}"


def execute(
    model: LanguageModel,
    who: str,
    problems: Sequence[Example],
    config: DecodeConfig,
    judge: Judge | None = None,
    recorder: Recorder | None = None,
) -> Run:
    """Decodes and judges problems.

    Args:
        model: from `cd4lm_jax.load`.
        who: what the run calls the model.
        problems: questions with answers.
        config: how they are decoded.
        judge: as GSM8K's if None.
        recorder: keeps the run as it goes, and continues one that was interrupted; problems are
            then those of `cd4lm_jax.data.benchmarks`.

    Raises:
        ValueError: problems or lengths that do not fit the model.
        JournalError: the run's folder holds another one.
    """
    name, asked = name_of(who, config), cast(Sequence[Problem], problems)
    prompts = [model.prompt_ids(p.get("prompt_ids", p["question"])) for p in asked]
    journal, parts = None, []
    size = len(asked)
    if recorder is not None:
        journal = recorder.journal(name, _settings(model, asked, prompts, config), len(asked))
        size, earlier = recorder.chunk, journal.earlier()
        parts = [] if earlier is None else [earlier]
    begun, seconds = len(parts) > 0, 0.0
    for start in range(journal.count if journal else 0, len(asked), size):
        chunk = asked[start : start + size]
        before = time.perf_counter()
        decoded = decode(model, prompts[start : start + size], config, first=start)
        spent = time.perf_counter() - before
        seconds += decoded.seconds
        part = Answers(
            outputs=decoded.text,
            correct=(judge or score_numbers)(decoded.text, chunk),
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
        config=config,
        trajectory=answers.trajectory,
        outputs=answers.outputs,
        correct=answers.correct,
        **measured,
    )


def timed_again(model: LanguageModel, problems: Sequence[Example], config: DecodeConfig) -> float:
    """Seconds of decoding the same problems once more, nothing kept."""
    asked = cast(Sequence[Problem], problems)
    prompts = [model.prompt_ids(p.get("prompt_ids", p["question"])) for p in asked]
    return decode(model, prompts, config).seconds


def _settings(
    model: LanguageModel,
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    config: DecodeConfig,
) -> dict[str, Any]:
    """What a run's lines follow from; models and problems by their sums, so that folders move."""
    references = [[p["id"], p["question"], p["answer"], p["target"]] for p in problems]
    return {
        "model": model.fingerprint,
        "dtype": model.transformer.execution.dtype,
        "prompts": checksums.of_json(prompts),
        "references": checksums.of_json(references),
        "decode": to_plain(config),
        "decode_fingerprint": config.fingerprint,
    }


def score_numbers(outputs: Sequence[str], problems: Sequence[Any]) -> npt.NDArray[np.bool_]:
    """The judge of answers in GSM8K's form, bool `[problems]`."""
    return numbers.score(outputs, [problem["answer"] for problem in problems])
