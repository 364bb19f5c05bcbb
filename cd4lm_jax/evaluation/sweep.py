"""Teacher and student over commit rules and thresholds: the comparison that the demo prints."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from cd4lm_jax.data import benchmarks
from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.evaluation import frontier, output, runs
from cd4lm_jax.evaluation.recorder import Recorder
from cd4lm_jax.language_model import LanguageModel, load
from cd4lm_jax.runtime.metrics import METRICS_FILE, read_jsonl

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig(output.EvaluationConfig):
    """What is compared, and on what.

    Attributes:
        output, chunk: see :class:`~cd4lm_jax.evaluation.output.EvaluationConfig`.
        teacher: model folder.
        student: model folder.
        source: dataset, see :func:`cd4lm_jax.data.sources.open_source`.
        problems: how many of the test split.
        selection_problems: how many of the validation split the student's threshold is chosen on.
        thresholds: of CAD.
        teacher_tokens: tokens a pass of the teacher's fixed-step runs; the first is the baseline.
        student_tokens: tokens a pass of the student's.
        decode: lengths, limits and batch size, the same for all.
        training: run folder of the student, for its training curves; None draws none.
    """

    teacher: str
    student: str
    source: str = "gsm_mini/distill"
    problems: int = 500
    selection_problems: int = 200
    thresholds: tuple[float, ...] = THRESHOLDS
    teacher_tokens: tuple[int, ...] = (1, 2, 4)
    student_tokens: tuple[int, ...] = (4,)
    decode: runs.DecodeSettings = runs.DecodeSettings()
    training: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.teacher_tokens or self.teacher_tokens[0] != 1:
            raise ValueError(
                f"teacher_tokens={self.teacher_tokens} must start with 1: speed-up is counted "
                "against one token a pass"
            )


def sweep(config: SweepConfig) -> dict[str, Any]:
    """Runs the comparison, or goes on with it; writes and returns the summary.

    The student's threshold is the fastest whose accuracy on *validation* problems is not below
    the teacher's own fixed-step accuracy there; test problems choose nothing.

    Raises:
        ValueError: models, problems or lengths that do not fit, or a folder that is not free.
    """
    start = time.perf_counter()
    test = _problems(config.source, "test", config.problems)
    validation = _problems(config.source, "validation", config.selection_problems)
    count = len(config.teacher_tokens) + len(config.student_tokens) + 2 * len(config.thresholds)
    answers = count * len(test) + (1 + len(config.thresholds)) * len(validation)
    with output.opened(config, answers, start) as evaluation:
        models = {"teacher": load(config.teacher), "student": load(config.student)}
        threshold = _choose_threshold(
            config, models, validation, evaluation.recorder.aside("selection")
        )
        done = [*_runs(config, models, test, evaluation.recorder)]
        rows = [run.row(run.seconds_of(done[0])) for run in done]
        chosen = None if threshold is None else f"student confidence:{threshold}"
        summary = {
            "rows": rows,
            "chosen": chosen,
            "notes": _notes(config, rows, chosen),
            "batch_size": config.decode.batch_size,
            "gen_length": config.decode.gen_length,
            "block_length": config.decode.block_length,
            "source": config.source,
        }
        curves = read_jsonl(pathlib.Path(config.training) / METRICS_FILE) if config.training else []
        return evaluation.write(summary, curves=curves, text=models["student"].token_text)


def _problems(source: str, split: str, count: int) -> list[Problem]:
    problems = benchmarks.word_problems(source, split)
    if count > len(problems):
        raise ValueError(f"{source} {split} has {len(problems)} problems, {count} were asked for")
    return problems[:count]


def _runs(
    config: SweepConfig,
    models: dict[str, LanguageModel],
    problems: list[Problem],
    recorder: Recorder,
) -> Iterator[runs.Run]:
    for who, tokens in (("teacher", config.teacher_tokens), ("student", config.student_tokens)):
        for count in tokens:
            yield runs.fixed_step(
                models[who], who, problems, config.decode, count, recorder=recorder
            )
    for who, model in models.items():
        for threshold in config.thresholds:
            yield runs.confidence(model, who, problems, config.decode, threshold, recorder=recorder)


def _choose_threshold(
    config: SweepConfig,
    models: dict[str, LanguageModel],
    problems: list[Problem],
    recorder: Recorder,
) -> float | None:
    floor = runs.fixed_step(
        models["teacher"], "teacher", problems, config.decode, 1, recorder=recorder
    )
    points = []
    for threshold in config.thresholds:
        run = runs.confidence(
            models["student"], "student", problems, config.decode, threshold, recorder=recorder
        )
        passes = float(run.trajectory.nfe.mean())
        points.append(frontier.Point(name=str(threshold), accuracy=run.accuracy, nfe=passes))
    best = frontier.choose(points, floor.accuracy)
    return None if best is None else float(best.name)


def _notes(config: SweepConfig, rows: list[dict[str, Any]], chosen: str | None) -> list[str]:
    """Sentences under the table, for the report and the terminal."""
    if chosen is None:
        return [
            "No threshold of the student reached the fixed-step teacher's accuracy on the "
            f"{config.selection_problems} validation problems that thresholds are chosen on."
        ]
    row = next(row for row in rows if row["name"] == chosen)
    # Of runs that different processes measured there is none.
    speed = f", at {row['speedup']:.1f}x the speed" if "speedup" in row else ""
    notes = [
        f"{chosen} was chosen on {config.selection_problems} validation problems: the fastest "
        "threshold not below the fixed-step teacher's accuracy there. On the test problems it has "
        f"{row['accuracy']:.1%} against {rows[0]['accuracy']:.1%}{speed}."
    ]
    floor = min(rows[0]["accuracy"], row["accuracy"])
    passes = {}
    for who in ("teacher", "student"):
        points = [
            frontier.Point.from_row(r)
            for r in rows
            if r["model"] == who and r["commit"].startswith("confidence")
        ]
        passes[who] = frontier.passes_at_accuracy(points, floor)
    if passes["teacher"] and passes["student"]:
        ratio = passes["student"] / passes["teacher"]
        notes.append(
            f"At an accuracy of {floor:.1%} the student needs {passes['student']:.1f} passes, the "
            f"teacher under the same rule {passes['teacher']:.1f}: {ratio:.2f} times as many."
        )
    notes.append(
        "Fixed-step runs fill the whole generation, as published; confidence runs end with the "
        "answer. Passes are counted per problem, time for whole batches."
    )
    return notes
