r"""Several blocks at once beside one, on gsm_mini: accuracy, passes, wall clock, AUP.

    make demo
    cd4lm distill --config=gsm_mini_best_two_blocks
    python -m experiments.benchmarks.frontier_decoding \
        --also=two_blocks=runs/best_two_blocks/model

The bundled teacher, the demo's students and those of --also are decoded by CAD: a block after
the other, and two blocks at once of which the second opens at once or when half of the first is
committed. A model's threshold is chosen on *validation* problems, for one block and for two: the
fewest passes at 99 % or more. The 500 *test* problems choose nothing. There every model is decoded
at all thresholds, and the fastest chosen settings of one block and of two also with caches and
editing. Chosen settings are then timed in turn. A name given twice is one recipe of several seeds,
which are averaged. What is decoded is kept in --decodes; a benchmark continues where it stopped.

passes_at_99          passes on test at 99 %, interpolated between thresholds, of the model and mode
                      with the fewest on validation; `passes_at_99_one_block` of those of one
                      block; not there where 99 % is not reached on test
multi_block_tps_gain  tokens a second of the fastest chosen setting of two blocks over the fastest
                      of one, the median of the turns (`_low`, `_high`: their range)
*_98                  the same at 98 %
aup_MODEL_MODE        accuracy under parallelism on test
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from absl import app, flags

from cd4lm_jax.data import benchmarks
from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.evaluation import timings
from cd4lm_jax.evaluation.runs import speed
from cd4lm_jax.evaluation.runs.recorder import Recorder
from cd4lm_jax.evaluation.runs.run import Run, execute
from cd4lm_jax.evaluation.statistics import frontier, proportion
from cd4lm_jax.evaluation.statistics.aup import accuracy_under_parallelism
from cd4lm_jax.evaluation.statistics.frontier import Point
from cd4lm_jax.evaluation.tasks.registry import GSM_MINI
from cd4lm_jax.language_model import LanguageModel, load
from cd4lm_jax.runtime import provenance
from cd4lm_jax.runtime.progress import Progress
from experiments.benchmarks import results
from experiments.configs import gsm_mini

RUNS = flags.DEFINE_string("demo", "runs/demo", "Folder of a demo run: student/model, best/model.")
STUDENTS = flags.DEFINE_multi_string("also", [], "Another student, as NAME=FOLDER.")
FOLDER = flags.DEFINE_string("decodes", "runs/frontier_decoding", "Where decodes are kept.")
PROBLEMS = flags.DEFINE_integer("test_problems", 500, "Test problems.", lower_bound=1)
VALIDATION = flags.DEFINE_integer("validation_problems", 300, "Others to choose on.", lower_bound=1)
TIMED = flags.DEFINE_integer("timed_problems", 64, "Test problems that are timed.", lower_bound=1)
TURNS = flags.DEFINE_integer("turns", 5, "Timings of each setting.", lower_bound=1)

FLOORS = {"": 0.99, "_98": 0.98}
"""Accuracies that settings are chosen for, by the suffix of their metrics."""
THRESHOLDS = (0.3, 0.5, 0.7, 0.9, 0.95)
MODES: dict[str, dict[str, Any]] = {
    "one": {},
    "two": {"lookahead": 2, "open_at": 0.0},
    "two_at_half": {"lookahead": 2, "open_at": 0.5},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "prefix": {"cache": "prefix"},
    "dual": {"cache": "dual"},
    "editing": {"editing_threshold": 0.9},
}


class Setting(NamedTuple):
    """A model and how it decodes."""

    model: str
    mode: str
    threshold: float
    variant: str = ""

    @property
    def decode(self) -> DecodeConfig:
        """As CAD without a bound of its own on the tokens of a pass."""
        rule = ConfidenceAdaptive(threshold=self.threshold, max_tokens=GSM_MINI.gen_length)
        changes = MODES[self.mode] | VARIANTS.get(self.variant, {})
        return dataclasses.replace(GSM_MINI, rule=rule, **changes)

    @property
    def several(self) -> bool:
        """Whether several blocks are open at once."""
        return self.decode.lookahead > 1


Decoded = dict[Setting, list[Run]]
"""Runs of settings, one a seed."""


def point(setting: Setting, runs: Iterable[Run]) -> Point:
    """Accuracy and mean passes of a setting, averaged over seeds."""
    pairs = [(run.accuracy, float(run.trajectory.nfe.mean())) for run in runs]
    accuracy, passes = (statistics.fmean(values) for values in zip(*pairs, strict=True))
    return Point(name=repr(setting), accuracy=accuracy, nfe=passes)


def chosen(
    decoded: Decoded, model: str | None = None, *, several: bool, floor: float = FLOORS[""]
) -> Setting | None:
    """The fewest passes at `floor` or more, of one block or several; None where none has it."""
    of = {
        repr(setting): setting
        for setting in decoded
        if setting.several == several and model in (None, setting.model)
    }
    points = [point(setting, decoded[setting]) for setting in of.values()]
    found = frontier.choose(points, floor)
    return of[found.name] if found else None


def passes_at(decoded: Decoded, model: str, mode: str, accuracy: float) -> float | None:
    """Passes of a model and mode at an accuracy, interpolated; None where it is not reached."""
    of = [setting for setting in decoded if (setting.model, setting.mode) == (model, mode)]
    return frontier.passes_at_accuracy((point(s, decoded[s]) for s in of), accuracy)


def passes_metrics(validation: Decoded, test: Decoded) -> dict[str, float]:
    """`passes_at_*` of what needs the fewest passes on validation, of any mode and of one block.

    What misses the accuracy on test is left out.
    """
    metrics = {}
    for accuracy, (part, modes) in itertools.product(
        FLOORS.values(), {"": [*MODES], "_one_block": ["one"]}.items()
    ):
        found = {
            key: passes
            for key in dict.fromkeys((setting.model, setting.mode) for setting in validation)
            if key[1] in modes and (passes := passes_at(validation, *key, accuracy)) is not None
        }
        if found:
            passes = passes_at(test, *min(found, key=found.__getitem__), accuracy)
            if passes is not None:
                metrics[f"passes_at_{accuracy:.0%}{part}".replace("%", "")] = passes
    return metrics


def aup_metrics(test: Decoded) -> dict[str, float]:
    """AUP of every model and mode on the same problems."""
    best = max(point(setting, runs).accuracy for setting, runs in test.items())
    points: dict[str, list[tuple[float, float]]] = {}
    for setting, runs in test.items():
        curve = points.setdefault(f"aup_{setting.model}_{setting.mode}", [])
        curve.append((tokens_a_pass(runs), point(setting, runs).accuracy))
    return {name: accuracy_under_parallelism(curve, best=best) for name, curve in points.items()}


def tokens_a_pass(runs: Iterable[Run]) -> float:
    """TPF, averaged over seeds."""
    return statistics.fmean(speed.measure(run.trajectory, seconds=None).tpf for run in runs)


def entry(setting: Setting, runs: list[Run]) -> dict[str, Any]:
    """What the results say of a setting."""
    of = point(setting, runs)
    said = {**setting._asdict(), "accuracy": of.accuracy, "passes": of.nfe}
    if len(runs) > 1:
        said["accuracy_by_seed"] = [run.accuracy for run in runs]
        said["passes_by_seed"] = [float(run.trajectory.nfe.mean()) for run in runs]
    else:
        said["accuracy_interval"] = proportion.accuracy(runs[0].correct).interval
    found = [run.trajectory.edits for run in runs if run.trajectory.edits is not None]
    edits = [float(edits.count.mean()) for edits in found]
    return (
        said | {"tpf": tokens_a_pass(runs)} | ({"edits": statistics.fmean(edits)} if edits else {})
    )


def timed(
    models: Mapping[str, LanguageModel], runs: Mapping[Setting, Run], problems: list[Problem]
) -> list[dict[str, Any]]:
    """Speeds in turn; `speedup` is against the first of the runs."""
    measured = timings.in_turn(models, [*runs.values()], problems, turns=TURNS.value)
    return [setting._asdict() | of.as_row() for setting, of in zip(runs, measured, strict=True)]


def gain_metrics(
    one: Mapping[str, Any], two: Mapping[str, Any], suffix: str = ""
) -> dict[str, float]:
    """`multi_block_tps_gain` of two rows of `timed`, the first of which is the baseline."""
    gain, faster = two["tps"] / one["tps"], two["speedup"]
    low, high = two.get("speedup_interval", [faster, faster])
    # Within a turn, and for the tokens of the two, which differ where answers do.
    return {
        f"multi_block_tps_gain{suffix}": gain,
        f"multi_block_tps_gain{suffix}_low": gain * low / faster,
        f"multi_block_tps_gain{suffix}_high": gain * high / faster,
    }


def folders() -> dict[str, list[str]]:
    """Model folders of every recipe, one a seed."""
    found = {
        "teacher": [gsm_mini.TEACHER],
        "student": [f"{RUNS.value}/student/model"],
        "best": [f"{RUNS.value}/best/model"],
    }
    for given in STUDENTS.value:
        name, _, folder = given.partition("=")
        if not folder:
            raise app.UsageError(f"--also={given}: expected NAME=FOLDER")
        found.setdefault(name, []).append(folder)
    return found


def main(argv: list[str]) -> None:
    """Decodes what is missing, chooses on validation, reports on test, times, writes."""
    del argv
    models = {name: [load(folder) for folder in seeds] for name, seeds in folders().items()}
    splits = {
        split: benchmarks.word_problems("gsm_mini/distill", split)[:count]
        for split, count in (("validation", VALIDATION.value), ("test", PROBLEMS.value))
    }

    def decoded(split: str, settings: Iterable[Setting]) -> Decoded:
        return {
            setting: [
                execute(
                    model,
                    f"{setting.model} {seed}",
                    splits[split],
                    setting.decode,
                    recorder=recorder(split, len(splits[split])),
                )
                for seed, model in enumerate(models[setting.model])
            ]
            for setting in settings
        }

    sweep = [Setting(m, mode, t) for m in models for mode in MODES for t in THRESHOLDS]
    validation, test = (decoded(split, sweep) for split in splits)
    picked = [
        setting
        for model in models
        for several in (False, True)
        if (setting := chosen(validation, model, several=several)) is not None
    ]
    pairs = {
        suffix: [
            setting
            for several in (False, True)
            if (setting := chosen(validation, several=several, floor=floor)) is not None
        ]
        for suffix, floor in FLOORS.items()
    }
    varied = [setting._replace(variant=name) for setting in pairs[""] for name in VARIANTS]
    runs = test | decoded("test", varied)
    metrics = passes_metrics(validation, test) | aup_metrics(test)
    rows = {}
    for suffix, pair in pairs.items():
        others = [] if suffix else [*picked, *varied]
        rows[f"timed{suffix}"] = timed(
            {f"{name} 0": seeds[0] for name, seeds in models.items()},
            {setting: runs[setting][0] for setting in (*pair, *others)},
            splits["test"][: TIMED.value],
        )
        if len(pair) == 2:
            one, two, *_ = rows[f"timed{suffix}"]
            metrics |= gain_metrics(one, two, suffix)
    path = results.write(
        "frontier_decoding",
        metrics,
        floors=FLOORS,
        problems={split: len(asked) for split, asked in splits.items()},
        batch_size=GSM_MINI.batch_size,
        modes=MODES,
        variants=VARIANTS,
        chosen=[{**s._asdict(), "validation": entry(s, validation[s])} for s in picked],
        validation=[entry(setting, of) for setting, of in validation.items()],
        test=[entry(setting, of) for setting, of in runs.items()],
        **rows,
        turns=TURNS.value,
    )
    print(path)


def recorder(split: str, problems: int) -> Recorder:
    """Keeps the runs of a split, and continues them."""
    quiet = Progress(problems, quiet=True)
    folder = pathlib.Path(FOLDER.value) / split
    return Recorder(folder, problems, provenance.environment(), quiet)


if __name__ == "__main__":
    app.run(main)
