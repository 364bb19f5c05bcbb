"""What makes a student need fewer passes: recipes beyond the paper against cross-entropy controls.

    python -m experiments.benchmarks.recipes

Every recipe starts from the demo's distillation (the same teacher, the teacher's own answers as
text, as many updates of as many rows) and changes what its line below says. Controls learn from the
text alone: `cross_entropy` as the demo with lambda 0, `plain` also without its entropy
regularisation, `entropy_3` and `entropy_9` with three and nine times its weight, `diffusion` with
LLaDA's loss. Three seeds each; ablations have one. Students are decoded with CAD over thresholds on
500 *validation* problems, and passes compared at equal accuracy: 99 %, or the highest that a
control reaches if that is lower; and at the fixed-step teacher's ("top", the same bound), 98 % and
95 %.
The recipe with the fewest passes at the first of them is decoded on 500 *test* problems, once, with
the controls.

Metrics: `passes_vs_control` (and `_low`, `_high`): the chosen recipe over the better control
on test; `validation_NAME` likewise for every recipe; `_top`, `_98` and `_95` at those
accuracies. Runs continue where they stopped.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from absl import app

from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.curriculum import Distance
from cd4lm_jax.distillation.divergence import ForwardKL, JensenShannon, ReverseKL
from cd4lm_jax.distillation.rollout import Rollout
from cd4lm_jax.evaluation.report import plots
from cd4lm_jax.evaluation.statistics.frontier import PassesRatio
from cd4lm_jax.runtime import files
from cd4lm_jax.settings.config import to_plain
from experiments.benchmarks import ablations, results
from experiments.benchmarks.ablations import Change, Sweep
from experiments.configs.gsm_mini_best import on_policy


def rollout(config: TrainConfig) -> TrainConfig:
    """States of the student's own CAD on the text."""
    return dataclasses.replace(config, corruption=Rollout(policy="student"), patience=0)


def states(config: TrainConfig, **changes: Any) -> TrainConfig:
    """Other states."""
    return dataclasses.replace(config, corruption=dataclasses.replace(config.corruption, **changes))


def objective(config: TrainConfig, **changes: Any) -> TrainConfig:
    """Another loss."""
    return dataclasses.replace(config, objective=dataclasses.replace(config.objective, **changes))


CONTROLS: dict[str, Change] = {
    **ablations.CONTROLS,
    "plain": lambda config: objective(ablations.text_alone(config), entropy_weight=0.0),
    "entropy_3": lambda config: objective(ablations.text_alone(config), entropy_weight=3.0),
    "entropy_9": lambda config: objective(ablations.text_alone(config), entropy_weight=9.0),
}

RECIPES: dict[str, Change] = {
    "dscd": ablations.dscd,
    "on_policy": lambda config: on_policy(config, ReverseKL(), entropy_weight=3.0),
    "on_policy_forward": lambda config: on_policy(config, ForwardKL(), entropy_weight=3.0),
    "on_policy_entropy_9": lambda config: on_policy(config, ForwardKL(), entropy_weight=9.0),
}

ABLATIONS: dict[str, Change] = {
    # Twice the updates: as many forward passes as on_policy takes, and then some.
    "cross_entropy_twice": lambda config: dataclasses.replace(
        ablations.text_alone(config), steps=2 * config.steps
    ),
    # on_policy with a smaller entropy weight, and with the text's tokens instead of the policy's
    # (what the teacher is shown is then the text, and learned as such).
    "on_policy_entropy_1": lambda config: on_policy(config, ReverseKL(), entropy_weight=1.0),
    "on_policy_as_text": lambda config: objective(
        states(on_policy(config, ReverseKL(), entropy_weight=3.0), tokens="text"), visible="text"
    ),
    # On-policy states alone: what the student leaves masked, with the text's tokens.
    "rollout": rollout,
    "rollout_text": lambda config: ablations.text_alone(rollout(config)),
    # d3LLM, 2601.07568: the order in which the teacher decodes.
    "teacher_rollout": lambda config: dataclasses.replace(
        config, corruption=Rollout(policy="teacher", passes=5)
    ),
    # A teacher that jumps as far as the student could a moment ago, and stands further on later.
    "average": lambda config: dataclasses.replace(
        rollout(config), average=0.98, distance=Distance(final=2)
    ),
    # A bounded divergence, weighted by the teacher's confidence: less of its mistakes.
    "careful": lambda config: objective(
        rollout(config), divergence=JensenShannon(), confidence=2.0
    ),
}

CHANGES = CONTROLS | RECIPES | ABLATIONS


def cost(config: TrainConfig) -> dict[str, int]:
    """Forward passes of an update, a row each, beside the student's forward and backward pass."""
    taught, states = config.teacher is not None, config.corruption
    student = teacher = 0
    if isinstance(states, Rollout):
        passes = states.passes - 1 + (config.distance.final if taught else 0)
        student, teacher = (passes, 0) if states.policy == "student" else (0, passes)
    return {"teacher_passes": teacher + taught, "student_passes": student}


class At(NamedTuple):
    """All variants at one accuracy; what does not reach it is left out.

    Attributes:
        accuracy: the share of right answers.
        control: the control that needs the fewest passes.
        passes: mean passes of each variant.
        ratios: those over the control's, with intervals over problems.
    """

    accuracy: float
    control: str
    passes: dict[str, float]
    ratios: dict[str, PassesRatio]


def compared(sweeps: Mapping[str, Sweep], teacher: float) -> dict[str, At]:
    """By suffix of a metric, the variants at each accuracy that some control reaches."""
    highest = max(sweeps[name].highest for name in CONTROLS)
    accuracies = {"": 0.99, "_top": teacher, "_98": 0.98, "_95": 0.95}
    found = {}
    for suffix, wanted in accuracies.items():
        accuracy = min(wanted, highest)
        passes, control = ablations.compare(sweeps, tuple(CONTROLS), accuracy)
        assert control is not None
        ratios = {name: ablations.ratio(sweeps[name], sweeps[control], accuracy) for name in passes}
        there = {name: ratio for name, ratio in ratios.items() if ratio is not None}
        found[suffix] = At(accuracy, control, passes, there)
    return found


def rows(found: Mapping[str, At], names: Iterable[str]) -> str:
    """The comparison as a table in Markdown, the fewest passes first."""
    head = [f"passes at {at.accuracy:.1%} | over {at.control}" for at in found.values()]
    lines = [f"| recipe | {' | '.join(head)} |", "|---" * (1 + 2 * len(head)) + "|"]
    first = found[""]
    for name in sorted(names, key=lambda name: first.passes.get(name, float("inf"))):
        cells = []
        for at in found.values():
            passes, ratio = at.passes.get(name), at.ratios.get(name)
            cells.append("–" if passes is None else f"{passes:.2f}")
            cells.append(
                "–" if ratio is None else f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
            )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def named(prefix: str, ratio: PassesRatio) -> dict[str, float]:
    """A ratio and its interval as metrics; a bound that is infinite is left out."""
    parts = {"": ratio.value, "_low": ratio.low, "_high": ratio.high}
    return {f"{prefix}{part}": value for part, value in parts.items() if math.isfinite(value)}


def judged(names: Iterable[str], split: str, seeds: int) -> tuple[dict[str, Sweep], dict[str, At]]:
    """Variants beside the controls, what is missing trained and decoded; prints the comparison."""
    sweeps = {
        name: ablations.trained(name, CHANGES[name], split, seeds) for name in (*CONTROLS, *names)
    }
    found = compared(sweeps, ablations.teacher_accuracy(split))
    print(f"{split}, {seeds} seed(s)\n{rows(found, sweeps)}", flush=True)
    return sweeps, found


def entries(names: Iterable[str], seeds: int, **splits: Any) -> list[dict[str, Any]]:
    """What the results say of each variant, given what `judged` found on splits."""
    said = []
    for name in names:
        settings = ablations.run(name, CHANGES[name], 0, pathlib.Path())
        entry = {"name": name, "seeds": seeds, "settings": to_plain(settings), **cost(settings)}
        for split, (sweeps, found) in splits.items():
            if name in sweeps:
                entry[f"{split}_by_seed"] = sweeps[name].by_seed
                entry |= {f"{split}_passes{at}": of.passes.get(name) for at, of in found.items()}
        said.append(entry)
    return said


def main(argv: list[str]) -> None:
    """Trains what is missing, decodes, compares, chooses, tests, writes."""
    del argv
    seeds, config = ablations.SEEDS.value, ablations.eval_config()
    sweeps, validation = judged(RECIPES, "validation", seeds)
    others = judged(ABLATIONS, "validation", 1)
    chosen = min(RECIPES, key=lambda name: validation[""].passes.get(name, math.inf))
    tested, test = judged([chosen], "test", seeds)

    metrics = {"accuracy": test[""].accuracy, "validation_accuracy": validation[""].accuracy}
    for suffix, at in test.items():
        if chosen in at.ratios:
            metrics |= named(f"passes_vs_control{suffix}", at.ratios[chosen])
    for suffix, at in validation.items():
        for name in RECIPES:
            if name in at.ratios:
                metrics |= named(f"validation_{name}{suffix}", at.ratios[name])
    write_plot(sweeps, ["cross_entropy", validation[""].control, "dscd", chosen])
    path = results.write(
        "recipes",
        metrics,
        chosen=chosen,
        controls={
            split: {f"at{suffix}": at.control for suffix, at in found.items()}
            for split, found in (("validation", validation), ("test", test))
        },
        seeds=seeds,
        problems=config.problems,
        thresholds=list(config.thresholds),
        recipes=[
            *entries(
                [*CONTROLS, *RECIPES], seeds, validation=(sweeps, validation), test=(tested, test)
            ),
            *entries(ABLATIONS, 1, validation=others),
        ],
    )
    print(f"{chosen}: {path}")


def write_plot(sweeps: Mapping[str, Sweep], names: Iterable[str]) -> None:
    """Accuracy against passes on validation, as `experiments/results/recipes.png`."""
    thresholds = ablations.eval_config().thresholds
    drawn = [
        {
            "name": f"{name} {threshold}",
            "model": name,
            "rule": f"confidence:{threshold}",
            "accuracy": point.accuracy,
            "nfe": point.nfe,
        }
        for name in dict.fromkeys(names)
        for threshold, point in zip(thresholds, sweeps[name].points, strict=True)
    ]
    files.write_bytes(results.FOLDER / "recipes.png", plots.pareto_png(drawn))


if __name__ == "__main__":
    app.run(main)
