"""Teacher and student over commit rules and thresholds: the comparison that the demo prints."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from cd4lm_jax.data.sources import Example, open_source
from cd4lm_jax.decoding.replay import Replay
from cd4lm_jax.evaluation import frontier, runs
from cd4lm_jax.evaluation.report import write_report
from cd4lm_jax.language_model import LanguageModel, load
from cd4lm_jax.runtime import files
from cd4lm_jax.runtime.metrics import METRICS_FILE, read_jsonl
from cd4lm_jax.runtime.progress import Progress

SUMMARY_FILE = "summary.json"
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """What is compared, and on what.

    Attributes:
        output: folder of ``summary.json`` and the report.
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
        replays: problems shown pass by pass.
    """

    output: str
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
    replays: int = 4

    def __post_init__(self) -> None:
        if not self.teacher_tokens or self.teacher_tokens[0] != 1:
            raise ValueError(
                f"teacher_tokens={self.teacher_tokens} must start with 1: speed-up is counted "
                "against one token a pass"
            )


def sweep(config: SweepConfig) -> dict[str, Any]:
    """Runs the comparison; writes and returns the summary.

    The student's threshold is the fastest whose accuracy on *validation* problems is not below
    the teacher's own fixed-step accuracy there; test problems choose nothing.

    Raises:
        ValueError: models, problems or lengths that do not fit.
    """
    models = {"teacher": load(config.teacher), "student": load(config.student)}
    test = _problems(config.source, "test", config.problems)
    chosen = _choose_threshold(config, models)
    count = len(config.teacher_tokens) + len(config.student_tokens) + 2 * len(config.thresholds)
    done: list[runs.Run] = []
    with Progress(count, label="evaluate", unit="run") as progress:
        for run in _runs(config, models, test):
            done.append(run)
            progress.update(
                len(done), {"accuracy": run.accuracy, "passes": run.trajectory.nfe.mean()}
            )
    baseline = done[0].seconds
    rows = [run.row(baseline) for run in done]
    name = None if chosen is None else f"student confidence:{chosen}"
    summary = {
        "rows": rows,
        "chosen": name,
        "notes": _notes(config, rows, name),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "batch_size": config.decode.batch_size,
        "gen_length": config.decode.gen_length,
        "block_length": config.decode.block_length,
        "source": config.source,
    }
    folder = pathlib.Path(config.output)
    files.write_text(folder / SUMMARY_FILE, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    curves = read_jsonl(pathlib.Path(config.training) / METRICS_FILE) if config.training else []
    shown = next((run for run in done if run.name == name), done[-1])
    replays = _replays(models["student"], [done[0], shown], test, config.replays)
    write_report(folder, summary, curves, replays)
    return summary


def _problems(source: str, split: str, count: int) -> list[Example]:
    examples = open_source(source, split)
    if count > len(examples):
        raise ValueError(f"{source} {split} has {len(examples)} problems, {count} were asked for")
    return [examples[index] for index in range(count)]


def _runs(
    config: SweepConfig, models: dict[str, LanguageModel], problems: list[Example]
) -> Iterator[runs.Run]:
    for tokens in config.teacher_tokens:
        yield runs.fixed_step(models["teacher"], "teacher", problems, config.decode, tokens)
    for tokens in config.student_tokens:
        yield runs.fixed_step(models["student"], "student", problems, config.decode, tokens)
    for who, model in models.items():
        for threshold in config.thresholds:
            yield runs.confidence(model, who, problems, config.decode, threshold)


def _choose_threshold(config: SweepConfig, models: dict[str, LanguageModel]) -> float | None:
    problems = _problems(config.source, "validation", config.selection_problems)
    floor = runs.fixed_step(models["teacher"], "teacher", problems, config.decode, 1).accuracy
    points = []
    for threshold in config.thresholds:
        run = runs.confidence(models["student"], "student", problems, config.decode, threshold)
        passes = float(run.trajectory.nfe.mean())
        points.append(frontier.Point(name=str(threshold), accuracy=run.accuracy, nfe=passes))
    best = frontier.choose(points, floor)
    return None if best is None else float(best.name)


def _notes(config: SweepConfig, rows: list[dict[str, Any]], chosen: str | None) -> list[str]:
    """Sentences under the table, for the report and the terminal."""
    if chosen is None:
        return [
            "No threshold of the student reached the fixed-step teacher's accuracy on the "
            f"{config.selection_problems} validation problems that thresholds are chosen on."
        ]
    row = next(row for row in rows if row["name"] == chosen)
    notes = [
        f"{chosen} was chosen on {config.selection_problems} validation problems: the fastest "
        "threshold not below the fixed-step teacher's accuracy there. On the test problems it has "
        f"{row['accuracy']:.1%} against {rows[0]['accuracy']:.1%}, at {row['speedup']:.1f}x the "
        "speed."
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


def _replays(
    model: LanguageModel, shown: list[runs.Run], problems: list[Example], count: int
) -> list[Replay]:
    assert model.tokenizer is not None  # prompts were text
    # The slowest, the median and so on down to the quickest: not only the easy ones.
    order = shown[-1].trajectory.nfe.argsort(kind="stable")[::-1]
    step = max(math.ceil(len(order) / max(count, 1)), 1)
    replays = []
    for row in order[::step][:count]:
        for run in shown:
            replays.append(
                run.trajectory.replay(
                    int(row),
                    text=model.tokenizer.decode_one,
                    question=problems[row]["question"],
                    reference=problems[row]["answer"],
                    title=run.name,
                    correct=bool(run.correct[row]),
                )
            )
    return replays
