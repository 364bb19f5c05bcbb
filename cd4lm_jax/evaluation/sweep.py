"""Teacher and students over commit rules: the comparison that the demo prints."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from cd4lm_jax.data import benchmarks
from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rule import Rule
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.evaluation import output, timings
from cd4lm_jax.evaluation.runs.recorder import Recorder
from cd4lm_jax.evaluation.runs.run import Run, execute, score_numbers
from cd4lm_jax.evaluation.statistics import frontier
from cd4lm_jax.evaluation.statistics.comparison import compare
from cd4lm_jax.evaluation.tasks import references, registry
from cd4lm_jax.evaluation.tasks.registry import GSM_MINI
from cd4lm_jax.language_model import LanguageModel, load
from cd4lm_jax.runtime.metrics import METRICS_FILE, read_jsonl

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig(output.EvaluationConfig):
    """What is compared, and on what.

    Attributes:
        teacher: model folder.
        student: model folder.
        best: that of another student, which rows call `best`; None leaves it out.
        source: dataset, see `cd4lm_jax.data.sources.open_source`.
        problems: how many of the test split.
        selection_problems: how many of the validation split students' rules are chosen on.
        timing_problems: the first so many of the test split are decoded `timing_turns` times more
            by the baseline and the chosen runs, in turn: that is the spread of their speed-up.
        timing_turns: see there; 0 leaves it out.
        decode: what all runs share: lengths, cache, batch size and so on; its rule is replaced.
        thresholds: a run of CAD at each, of every model.
        rules: a run under each of these commit rules too, of every model.
        decodes: a run as each of these describes whole, of every model.
        teacher_tokens: tokens a pass of the teacher's fixed-step runs; the first is the baseline.
        student_tokens: tokens a pass of a student's.
        training: run folder of the student, for its training curves; None draws none.
    """

    teacher: str
    student: str
    best: str | None = None
    source: str = "gsm_mini/distill"
    problems: int = 500
    selection_problems: int = 200
    timing_problems: int = 32
    timing_turns: int = 5
    decode: DecodeConfig = GSM_MINI
    thresholds: tuple[float, ...] = THRESHOLDS
    rules: tuple[Rule, ...] = ()
    decodes: tuple[DecodeConfig, ...] = ()
    teacher_tokens: tuple[int, ...] = (1, 2, 4)
    student_tokens: tuple[int, ...] = (4,)
    training: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.teacher_tokens or self.teacher_tokens[0] != 1:
            raise ValueError(
                f"teacher_tokens={self.teacher_tokens} must start with 1: speed-up is counted "
                "against one token a pass"
            )
        for name in ("problems", "selection_problems", "timing_problems"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; give 1 or more")
        if self.timing_turns < 0:
            raise ValueError(f"timing_turns={self.timing_turns}; give 0 or more")
        for tokens in (self.teacher_tokens, self.student_tokens):
            output.check_distinct([*map(self.decode.fixed, tokens), *self.adaptive])

    @property
    def adaptive(self) -> list[DecodeConfig]:
        """The runs that every model has and among which a student's is chosen."""
        rules = [*(ConfidenceAdaptive(threshold=t) for t in self.thresholds), *self.rules]
        return [*(dataclasses.replace(self.decode, rule=it) for it in rules), *self.decodes]


def sweep(config: SweepConfig) -> dict[str, Any]:
    """Runs the comparison, or continues it; writes and returns the summary.

    A student's run is the fastest whose accuracy on *validation* problems is not below the
    teacher's fixed-step accuracy there, and the chosen run is the fastest student's; test problems
    choose nothing.

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
            "baseline": done[0].name,
            "chosen": fastest.name if fastest else None,
            "judged": registry.task("gsm_mini").judged,
            "notes": [
                *_notes(config, done, rows, points),
                *_timings(config, models, test, done, points),
                "Fixed-step runs fill the whole generation, as published; the others end with the "
                "answer. Passes are counted per problem, time for whole batches.",
            ],
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
    references.check(problems[:count], score_numbers)
    return problems[:count]


def _answers(config: SweepConfig, test: int, validation: int) -> int:
    """How many are asked for, for the progress display."""
    students, adaptive = 1 + (config.best is not None), len(config.adaptive)
    fixed = len(config.teacher_tokens) + students * len(config.student_tokens)
    return (fixed + (1 + students) * adaptive) * test + (1 + students * adaptive) * validation


def _runs(
    config: SweepConfig,
    models: dict[str, LanguageModel],
    problems: list[Problem],
    recorder: Recorder,
) -> Iterator[Run]:
    for who, model in models.items():
        for count in config.teacher_tokens if who == "teacher" else config.student_tokens:
            fixed = config.decode.fixed(count)
            yield execute(model, who, problems, fixed, recorder=recorder)
    for who, model in models.items():
        for decode in config.adaptive:
            yield execute(model, who, problems, decode, recorder=recorder)


def _choose(
    config: SweepConfig,
    models: dict[str, LanguageModel],
    problems: list[Problem],
    recorder: Recorder,
) -> dict[str, frontier.Point | None]:
    """Each student's run that was chosen; None where none is as good as the teacher."""
    baseline = config.decode.fixed()
    floor = execute(models["teacher"], "teacher", problems, baseline, recorder=recorder)
    chosen = {}
    for who, model in models.items():
        if who == "teacher":
            continue
        points = []
        for decode in config.adaptive:
            run = execute(model, who, problems, decode, recorder=recorder)
            passes = float(run.trajectory.nfe.mean())
            points.append(frontier.Point(name=run.name, accuracy=run.accuracy, nfe=passes))
        chosen[who] = frontier.choose(points, floor.accuracy)
    return chosen


def _notes(
    config: SweepConfig,
    done: list[Run],
    rows: list[dict[str, Any]],
    chosen: dict[str, frontier.Point | None],
) -> list[str]:
    """Sentences under the table, for the report and the terminal."""
    return [
        note for who, point in chosen.items() for note in _notes_on(config, done, rows, who, point)
    ]


def _timings(
    config: SweepConfig,
    models: dict[str, LanguageModel],
    problems: list[Problem],
    done: list[Run],
    chosen: dict[str, frontier.Point | None],
) -> Iterator[str]:
    """What repeated timings say of the chosen runs: the table's are of one timing each."""
    names = {point.name for point in chosen.values() if point}
    baseline, turns = done[0], config.timing_turns
    compared = [run for run in done if run.name in names]
    if not compared or not turns or not baseline.timed_here:
        return  # what an earlier start decoded is not decoded again
    problems = problems[: config.timing_problems]
    _, *speeds = timings.in_turn(models, [baseline, *compared], problems, turns=turns)
    for run, measured in zip(compared, speeds, strict=True):
        yield timings.sentence(run, baseline, measured, turns=turns)


def _notes_on(
    config: SweepConfig,
    done: list[Run],
    rows: list[dict[str, Any]],
    who: str,
    chosen: frontier.Point | None,
) -> Iterator[str]:
    """What a student's chosen run reached."""
    if chosen is None:
        yield (
            f"No rule of {who} reached the fixed-step teacher's accuracy on the "
            f"{config.selection_problems} validation problems that rules are chosen on."
        )
        return
    run, row = next(pair for pair in zip(done, rows, strict=True) if pair[0].name == chosen.name)
    # What was chosen on validation problems may lose accuracy on the test problems.
    loss = compare(run.correct, done[0].correct).loss(run.name, done[0].name)
    # Of runs that different processes measured there is none.
    speed = f", at {row['speedup']:.1f}x the speed" if "speedup" in row else ""
    yield (
        f"{chosen.name} was chosen on {config.selection_problems} validation problems: the fastest "
        "threshold not below the fixed-step teacher's accuracy there. On the test problems it has "
        f"{row['accuracy']:.1%} against {rows[0]['accuracy']:.1%}{speed}."
        + (f" {loss}" if loss else "")
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
    found = (r for r in rows if r["model"] == model and r["rule"].startswith("confidence:"))
    return frontier.passes_at_accuracy(map(frontier.Point.from_row, found), accuracy)
