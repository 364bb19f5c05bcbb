"""What DSCD adds over training of equal cost: the same teacher, data, steps and optimizer.

    python -m experiments.benchmarks.dscd_share

Arms, three seeds each: ``dscd`` (the demo's recipe), ``cross_entropy`` (the same with lambda 0:
text alone), ``diffusion`` (LLaDA's own loss on the same text) and ``published`` (DSCD as the paper
has it: the dataset's text, uniform masks, T 2, the teacher's output also where it sees the token,
no certainty term). Every student is decoded with CAD over the demo's thresholds on the demo's test
problems. Passes are compared at equal accuracy: that of the fixed-step teacher on the same
problems, or the highest that DSCD and both controls reach if that is lower; and at 95 %, which is
away from that edge. Metrics: ``passes_ratio`` of DSCD against the better control (text alone or
LLaDA's loss), with a bootstrap interval over problems, ``passes_ratio_95`` likewise, and the passes
of each arm that reaches the accuracy. Runs continue where they stopped.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
from absl import app, flags

from cd4lm_jax.corruption.masking import Corruption
from cd4lm_jax.data.sources import Example, open_source
from cd4lm_jax.distillation.curriculum import LambdaCurriculum
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.trainer import TrainConfig, train
from cd4lm_jax.evaluation import frontier, runs
from cd4lm_jax.evaluation.sweep import SweepConfig
from cd4lm_jax.language_model import LanguageModel, load
from experiments.benchmarks import results
from experiments.configs import gsm_mini, gsm_mini_eval

_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each arm.", lower_bound=1)
_RUNS = flags.DEFINE_string("runs", "runs/dscd_share", "Folder of the runs.")

CONTROLS = ("cross_entropy", "diffusion")
ARMS = ("dscd", *CONTROLS, "published")
EASY = 0.95


def arm_config(arm: str, seed: int, output: pathlib.Path) -> TrainConfig:
    """The demo's distillation with another objective and seed, its last step always exported."""
    config = gsm_mini.get_config()
    config = dataclasses.replace(
        config,
        output=str(output / f"{arm}_{seed}"),
        seed=seed,
        data=dataclasses.replace(config.data, seed=seed),
        # Losses of different objectives do not compare, so none may stop or select early.
        eval_every=config.steps,
    )
    if arm == "cross_entropy":
        lambda_zero = LambdaCurriculum(initial=0.0, final=0.0)
        return dataclasses.replace(config, teacher=None, curriculum=lambda_zero)
    if arm == "diffusion":
        loss = Corruption(scheme="diffusion", weighting="elbo")
        return dataclasses.replace(config, teacher=None, corruption=loss, objective=Objective())
    if arm == "published":
        return dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, source="gsm_mini/distill", split="distill"),
            corruption=Corruption(),
            objective=Objective(),
            curriculum=LambdaCurriculum(),
        )
    return config


def decode_sweep(
    model: LanguageModel, who: str, config: SweepConfig, cache: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    """Right answers and passes ``[thresholds, problems]`` under CAD, kept in ``cache``."""
    if not cache.exists():
        problems = test_problems(config)
        done = [runs.confidence(model, who, problems, config.decode, t) for t in config.thresholds]
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            cache,
            correct=np.stack([run.correct for run in done]),
            nfe=np.stack([run.trajectory.nfe for run in done]),
        )
    saved = np.load(cache)
    return saved["correct"], saved["nfe"]


def test_problems(config: SweepConfig) -> list[Example]:
    """The demo's test problems."""
    source = open_source(config.source, "test")
    return [source[index] for index in range(config.problems)]


def main(argv: list[str]) -> None:
    """Trains what is missing, decodes, compares, writes."""
    del argv
    output = pathlib.Path(_RUNS.value)
    config = gsm_mini_eval.get_config()
    teacher = load(config.teacher)
    sweeps = {"teacher": decode_sweep(teacher, "teacher", config, output / "teacher.npz")}
    for seed in range(_SEEDS.value):
        for arm in ARMS:
            result = train(arm_config(arm, seed, output))
            student = load(result.folder)
            name = f"{arm}_{seed}"
            sweeps[name] = decode_sweep(student, name, config, output / name / "sweep.npz")
    fixed = runs.fixed_step(teacher, "teacher", test_problems(config), config.decode, 1)

    arms = {
        arm: tuple(
            np.stack([sweeps[f"{arm}_{seed}"][part] for seed in range(_SEEDS.value)])
            for part in range(2)
        )
        for arm in ARMS
    }
    arms["teacher"] = tuple(part[None] for part in sweeps["teacher"])
    highest = {arm: float(correct.mean(axis=(0, 2)).max()) for arm, (correct, _) in arms.items()}
    points = {arm: _points(*arrays) for arm, arrays in arms.items()}
    edge = min(fixed.accuracy, *(highest[arm] for arm in ("dscd", *CONTROLS)))
    metrics = {"accuracy": edge, "teacher_fixed_accuracy": fixed.accuracy}
    details: dict[str, Any] = {}
    for suffix, target in (("", edge), ("_95", EASY)):
        found = {arm: frontier.passes_at_accuracy(points[arm], target) for arm in arms}
        passes = {arm: value for arm, value in found.items() if value is not None}
        control = min(CONTROLS, key=passes.__getitem__)
        ratio = frontier.passes_ratio_interval(*arms["dscd"], *arms[control], accuracy=target)
        assert ratio is not None  # both reach the accuracy
        metrics |= {
            f"passes_ratio{suffix}": ratio.value,
            f"passes_ratio{suffix}_low": ratio.low,
            f"passes_ratio{suffix}_high": ratio.high,
        } | {f"passes{suffix}_{arm}": value for arm, value in passes.items()}
        details[f"better_control{suffix}"] = control
        details[f"reached{suffix}"] = ratio.reached
        print(f"passes at {target:.1%} (mean of {_SEEDS.value} seeds)")
        for arm in arms:
            needed = f"{passes[arm]:6.2f}" if arm in passes else "     -"
            print(f"  {arm:14} {needed}   highest accuracy {highest[arm]:.1%}")
        print(f"  dscd / {control}: {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")
    details |= {
        "seeds": _SEEDS.value,
        "problems": config.problems,
        "thresholds": list(config.thresholds),
        "points": {arm: [[p.accuracy, p.nfe] for p in found] for arm, found in points.items()},
        "by_seed": {
            name: [[float(r.mean()), float(n.mean())] for r, n in zip(*arrays, strict=True)]
            for name, arrays in sweeps.items()
        },
        "highest_accuracy": highest,
    }
    print(results.write("dscd_share", metrics, **details))


def _points(correct: np.ndarray, nfe: np.ndarray) -> list[frontier.Point]:
    """One point a threshold, averaged over seeds and problems."""
    accuracy, passes = correct.mean(axis=(0, 2)), nfe.mean(axis=(0, 2))
    return [
        frontier.Point(name=str(i), accuracy=float(a), nfe=float(n))
        for i, (a, n) in enumerate(zip(accuracy, passes, strict=True))
    ]


if __name__ == "__main__":
    app.run(main)
