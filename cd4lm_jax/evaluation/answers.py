"""A model's correct answers to the questions of a dataset, as text to distil on.

What a model would say is what its student can learn to say in fewer passes: where a text has
several right forms, a reference's choice among them is chance to the model, its own is not.
dParallel (arXiv 2509.26488) and d3LLM (arXiv 2601.07568) train on such answers, wrong ones
dropped; so does this.

    OUTPUT/SPLIT.jsonl       a question and an answer a line, once the split is answered
    OUTPUT/answers.json      the settings and the counts, once all are
    OUTPUT/runs/             what is answered so far; an interrupted run continues there
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from typing import Any

from cd4lm_jax.data.benchmarks import Problem, word_problems
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.evaluation.runs.chunks import differences
from cd4lm_jax.evaluation.runs.journal import RUNS_FOLDER
from cd4lm_jax.evaluation.runs.recorder import Recorder
from cd4lm_jax.evaluation.runs.run import Run, execute, score_numbers
from cd4lm_jax.evaluation.tasks import references
from cd4lm_jax.evaluation.tasks.registry import GSM_MINI
from cd4lm_jax.language_model import load
from cd4lm_jax.models.placement import Placement
from cd4lm_jax.runtime import cluster, files, provenance
from cd4lm_jax.runtime.progress import Progress
from cd4lm_jax.settings.config import to_plain

SETTINGS_FILE = "answers.json"


class AnswersError(ValueError):
    """A folder of other answers, splits that are the same rows, or no right answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswersConfig:
    """Whose answers, to what.

    Attributes:
        output: folder to write, see `cd4lm_jax.evaluation.answers`.
        model: model folder.
        source: dataset, see `cd4lm_jax.data.sources.open_source`.
        splits: of it.
        problems: how many of each split; None for all.
        decode: how the questions are answered.
        chunk: questions that are answered together and then written: what an interruption can
            lose. Several hosts share the chunks.
        placement: how the model runs.
    """

    output: str
    model: str
    source: str = "gsm_mini/distill"
    splits: tuple[str, ...] = ("distill", "validation")
    problems: int | None = None
    decode: DecodeConfig = dataclasses.replace(
        GSM_MINI, rule=ConfidenceAdaptive(threshold=0.9), batch_size=64
    )
    chunk: int = 1024
    placement: Placement = Placement()

    def __post_init__(self) -> None:
        if not self.splits or len(set(self.splits)) < len(self.splits):
            raise ValueError(f"splits={self.splits}; give each of one or more splits once")
        if self.problems is not None and self.problems < 1:
            raise ValueError(f"problems={self.problems}; give 1 or more, or none for all")
        if self.chunk < 1:
            raise ValueError(f"chunk={self.chunk} questions; give 1 or more, such as 1024")


def write_answers(config: AnswersConfig) -> dict[str, dict[str, int]]:
    """Answers every question and keeps what is right and ended; continues what was interrupted.

    Returns:
        For each split how many were `asked` and how many answers `kept`.

    Raises:
        AnswersError: the folder holds other answers, two splits are the same rows, or no answer is
            right.
        ValueError: a source or lengths that do not fit the model.
    """
    folder = pathlib.Path(config.output)
    asked = _asked(config)
    total = sum(map(len, asked.values()))
    quiet = not cluster.is_main()
    with (
        cluster.held(folder),  # first: loading a model may take minutes
        Progress(total, label="answer", unit="question", quiet=quiet) as progress,
    ):
        model = load(config.model, config.placement)
        settings = to_plain(config) | {"model": model.fingerprint}
        for name in ("output", "placement", "chunk"):  # none of them changes an answer
            del settings[name]
        counts = _done(folder, settings)
        if counts is not None:
            return counts
        recorder = Recorder(folder / RUNS_FOLDER, config.chunk, provenance.environment(), progress)
        counts = {}
        for split, problems in asked.items():
            run = execute(model, split, problems, config.decode, recorder=recorder)
            kept = _right(run, problems)
            if not kept:
                raise AnswersError(
                    f"{config.model} answers none of {len(problems)} questions of {config.source} "
                    f"{split} right; give a model that was trained for them"
                )
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in kept]
            if cluster.is_main():
                files.write_text(folder / f"{split}.jsonl", "".join(lines))
            counts[split] = {"asked": len(problems), "kept": len(kept)}
        cluster.meet("answers read")  # before the runs are removed
        if cluster.is_main():
            # Last: it says that the rest is whole.
            record = json.dumps({"settings": settings, "counts": counts}, indent=2)
            files.write_text(folder / SETTINGS_FILE, record + "\n")
            shutil.rmtree(folder / RUNS_FOLDER)
    return counts


def _asked(config: AnswersConfig) -> dict[str, list[Problem]]:
    """The questions of every split."""
    found: dict[str, list[Problem]] = {}
    for split in config.splits:
        problems = word_problems(config.source, split)[: config.problems]
        references.check(problems, score_numbers)
        for other, rows in found.items():
            if problems == rows:
                raise AnswersError(
                    f"{other} and {split} of {config.source} are the same {len(rows)} rows, so "
                    "that one could not validate the other; give one split, or a source with both"
                )
        found[split] = problems
    return found


def _done(folder: pathlib.Path, settings: dict[str, Any]) -> dict[str, dict[str, int]] | None:
    """The counts of a folder that is whole and was made with the same settings.

    Raises:
        AnswersError: it was made with other settings.
    """
    try:
        record = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if different := differences(settings, record["settings"]):
        raise AnswersError(
            f"{folder} holds answers of other settings ({', '.join(different)} differ); give "
            "another output, or remove that folder"
        )
    counts: dict[str, dict[str, int]] = record["counts"]
    return counts


def _right(run: Run, problems: list[Problem]) -> list[dict[str, str]]:
    """The questions whose answers are right and end."""
    ended = run.trajectory.length < run.config.gen_length
    rows = zip(problems, run.outputs, run.correct & ended, strict=True)
    return [{"question": p["question"], "answer": text} for p, text, good in rows if good]
