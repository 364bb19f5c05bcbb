"""Teacher and students over commit rules and thresholds: the comparison that the demo prints."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from cd4lm_jax.data import benchmarks
from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.evaluation import output
from cd4lm_jax.evaluation.runs import run as runs
from cd4lm_jax.evaluation.runs.recorder import Recorder
from cd4lm_jax.evaluation.statistics import frontier
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
        best: that of another student, which rows call ``best``; None leaves it out.
        source: dataset, see :func:`cd4lm_jax.data.sources.open_source`.
        problems: how many of the test split.
        selection_problems: how many of the validation split students' thresholds are chosen on.
        thresholds: of CAD.
        teacher_tokens: tokens a pass of the teacher's fixed-step runs; the first is the baseline.
        student_tokens: tokens a pass of a student's.
        decode: lengths, limits and batch size, the same for all.
        training: run folder of the student, for its training curves; None draws none.
    """

    teacher: str
    student: str
    best: str | None = None
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

    A student's threshold is the fastest whose accuracy on *validation* problems is not below the
    teacher's own fixed-step accuracy there, and the chosen run is the fastest student's; test
    problems choose nothing.

    Raises:
        ValueError: models, problems or lengths that do not fit, or a folder that is not free.
    """
    start = time.perf_counter()
    test = _problems(config.source, "test", config.problems)
    validation = _problems(config.source, "validation", config.selection_problems)
    folders = {"teacher": config.teacher, "student": config.student, "best": config.best}
    with output.opened(config, _answers(config, len(test), len(validation)), start) as evaluation:
        models = {who: load(folder) for who, folder in folders.items() if folder is not None}
        points = _choose(config, models, validation, evaluation.recorder.aside("selection"))
        done = [*_runs(config, models, test, evaluation.recorder)]
        rows = [run.row(run.seconds_of(done[0])) for run in done]
        fastest = frontier.choose([point for point in points.values() if point], floor=0.0)
        summary = {
            "rows": rows,
            "chosen": fastest.name if fastest else None,
            "notes": _notes(config, rows, points),
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


def _answers(config: SweepConfig, test: int, validation: int) -> int:
    """How many are asked for, for the progress display."""
    students, swept = 1 + (config.best is not None), len(config.thresholds)
    fixed = len(config.teacher_tokens) + students * len(config.student_tokens)
    return (fixed + (1 + students) * swept) * test + (1 + students * swept) * validation


def _runs(
    config: SweepConfig,
    models: dict[str, LanguageModel],
    problems: list[Problem],
    recorder: Recorder,
) -> Iterator[runs.Run]:
    for who, model in models.items():
        for count in config.teacher_tokens if who == "teacher" else config.student_tokens:
            yield runs.fixed_step(model, who, problems, config.decode, count, recorder=recorder)
    for who, model in models.items():
        for threshold in config.thresholds:
            yield runs.confidence(model, who, problems, config.decode, threshold, recorder=recorder)


def _choose(
    config: SweepConfig,
    models: dict[str, LanguageModel],
    problems: list[Problem],
    recorder: Recorder,
) -> dict[str, frontier.Point | None]:
    """Each student's run that was chosen; None where none is as good as the teacher."""
    floor = runs.fixed_step(
        models["teacher"], "teacher", problems, config.decode, 1, recorder=recorder
    )
    chosen = {}
    for who, model in models.items():
        if who == "teacher":
            continue
        points = []
        for threshold in config.thresholds:
            run = runs.confidence(model, who, problems, config.decode, threshold, recorder=recorder)
            passes = float(run.trajectory.nfe.mean())
            points.append(frontier.Point(name=run.name, accuracy=run.accuracy, nfe=passes))
        chosen[who] = frontier.choose(points, floor.accuracy)
    return chosen


def _notes(
    config: SweepConfig, rows: list[dict[str, Any]], chosen: dict[str, frontier.Point | None]
) -> list[str]:
    """Sentences under the table, for the report and the terminal."""
    notes = [note for who, point in chosen.items() for note in _notes_on(config, rows, who, point)]
    return [
        *notes,
        "Fixed-step runs fill the whole generation, as published; confidence runs end with the "
        "answer. Passes are counted per problem, time for whole batches.",
    ]


def _notes_on(
    config: SweepConfig, rows: list[dict[str, Any]], who: str, chosen: frontier.Point | None
) -> Iterator[str]:
    """What a student's chosen run reached."""
    if chosen is None:
        yield (
            f"No threshold of {who} reached the fixed-step teacher's accuracy on the "
            f"{config.selection_problems} validation problems that thresholds are chosen on."
        )
        return
    row = next(row for row in rows if row["name"] == chosen.name)
    # Of runs that different processes measured there is none.
    speed = f", at {row['speedup']:.1f}x the speed" if "speedup" in row else ""
    yield (
        f"{chosen.name} was chosen on {config.selection_problems} validation problems: the fastest "
        "threshold not below the fixed-step teacher's accuracy there. On the test problems it has "
        f"{row['accuracy']:.1%} against {rows[0]['accuracy']:.1%}{speed}."
    )
    floor = min(rows[0]["accuracy"], row["accuracy"])
    ours, teachers = (_passes(rows, model, floor) for model in (who, "teacher"))
    if ours and teachers:
        yield (
            f"At an accuracy of {floor:.1%} {who} needs {ours:.1f} passes, the teacher under the "
            f"same rule {teachers:.1f}: {ours / teachers:.2f} times as many."
        )


def _passes(rows: list[dict[str, Any]], model: str, accuracy: float) -> float | None:
    """What a model needs under CAD for an accuracy."""
    found = (r for r in rows if r["model"] == model and r["commit"].startswith("confidence"))
    return frontier.passes_at_accuracy(map(frontier.Point.from_row, found), accuracy)
