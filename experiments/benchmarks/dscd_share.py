"""What DSCD adds over training of equal cost: the same teacher, data, steps and optimizer.

    python -m experiments.benchmarks.dscd_share

Variants, three seeds each: `dscd` (the demo's recipe), `cross_entropy` (the same with lambda 0:
text alone), `diffusion` (LLaDA's own loss on the same text) and `published` (DSCD as the paper
has it: the dataset's text, uniform masks, T 2, the teacher's output also where it sees the token,
no entropy regularisation). Every student is decoded with CAD over ten thresholds on the demo's
test problems. Passes are compared at equal accuracy: that of the fixed-step teacher on the
same problems, or the highest that DSCD and both controls reach if that is lower; and at 95 %, which
is away from that edge. Metrics: `passes_ratio` of DSCD against the better control (text alone or
LLaDA's loss), with a bootstrap interval over problems, `passes_ratio_95` likewise, and the passes
of each variant that reaches the accuracy. Runs continue where they stopped; those that recipes.py
compares too are shared with it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import app

from cd4lm_jax.corruption.masking import NestedMasks
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.curriculum import LambdaCurriculum
from cd4lm_jax.distillation.objective import Objective
from experiments.benchmarks import ablations, results

CONTROLS = tuple(ablations.CONTROLS)
EASY = 0.95


def published(config: TrainConfig) -> TrainConfig:
    """DSCD as the paper has it."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, source="gsm_mini/distill", split="distill"),
        corruption=NestedMasks(),
        objective=Objective(),
        curriculum=LambdaCurriculum(),
    )


VARIANTS = {"dscd": ablations.dscd, **ablations.CONTROLS, "published": published}


def main(argv: list[str]) -> None:
    """Trains what is missing, decodes, compares, writes."""
    del argv
    config, seeds = ablations.eval_config(), ablations.SEEDS.value
    sweeps = {
        name: ablations.trained(name, change, "test", seeds) for name, change in VARIANTS.items()
    }
    sweeps["teacher"] = ablations.teacher("test")
    fixed = ablations.teacher_accuracy("test")

    edge = min(fixed, *(sweeps[name].highest for name in ("dscd", *CONTROLS)))
    metrics = {"accuracy": edge, "teacher_fixed_accuracy": fixed}
    details: dict[str, Any] = {}
    for suffix, target in (("", edge), ("_95", EASY)):
        passes, control = ablations.compare(sweeps, CONTROLS, target)
        assert control is not None
        ratio = ablations.ratio(sweeps["dscd"], sweeps[control], target)
        assert ratio is not None  # both reach the accuracy
        metrics |= {
            f"passes_ratio{suffix}": ratio.value,
            f"passes_ratio{suffix}_low": ratio.low,
            f"passes_ratio{suffix}_high": ratio.high,
        } | {f"passes{suffix}_{name}": value for name, value in passes.items()}
        details[f"better_control{suffix}"] = control
        details[f"reached{suffix}"] = ratio.reached
        print(f"passes at {target:.1%} (mean of {seeds} seeds)")
        for name, sweep in sweeps.items():
            needed = f"{passes[name]:6.2f}" if name in passes else "     -"
            print(f"  {name:14} {needed}   highest accuracy {sweep.highest:.1%}")
        print(f"  dscd / {control}: {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")
    details |= {
        "seeds": seeds,
        "problems": config.problems,
        "thresholds": list(config.thresholds),
        "points": {name: [[p.accuracy, p.nfe] for p in of.points] for name, of in sweeps.items()},
        "by_seed": {
            "teacher" if name == "teacher" else f"{name}_{seed}": points
            for name, of in sweeps.items()
            for seed, points in enumerate(of.by_seed)
        },
        "highest_accuracy": {name: of.highest for name, of in sweeps.items()},
    }
    print(results.write("dscd_share", metrics, **details))


if __name__ == "__main__":
    app.run(main)
