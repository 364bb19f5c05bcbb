"""What DSCD adds over training of equal cost: the same teacher, data, steps and optimizer.

    python -m experiments.benchmarks.dscd_share

Arms, three seeds each: ``dscd`` (the demo's recipe), ``cross_entropy`` (the same with lambda 0:
text alone), ``diffusion`` (LLaDA's own loss on the same text) and ``published`` (DSCD as the paper
has it: the dataset's text, uniform masks, T 2, the teacher's output also where it sees the token,
no certainty term). Every student is decoded with CAD over ten thresholds on the demo's
test problems. Passes are compared at equal accuracy: that of the fixed-step teacher on the
same problems, or the highest that DSCD and both controls reach if that is lower; and at 95 %, which
is away from that edge. Metrics: ``passes_ratio`` of DSCD against the better control (text alone or
LLaDA's loss), with a bootstrap interval over problems, ``passes_ratio_95`` likewise, and the passes
of each arm that reaches the accuracy. Runs continue where they stopped; those that recipes.py
compares too are shared with it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import app

from cd4lm_jax.corruption.masking import Corruption
from cd4lm_jax.distillation.curriculum import LambdaCurriculum
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.trainer import TrainConfig
from experiments.benchmarks import arms, results

CONTROLS = tuple(arms.CONTROLS)
EASY = 0.95


def published(config: TrainConfig) -> TrainConfig:
    """DSCD as the paper has it."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, source="gsm_mini/distill", split="distill"),
        corruption=Corruption(),
        objective=Objective(),
        curriculum=LambdaCurriculum(),
    )


ARMS = {"dscd": arms.dscd, **arms.CONTROLS, "published": published}


def main(argv: list[str]) -> None:
    """Trains what is missing, decodes, compares, writes."""
    del argv
    config, seeds = arms.eval_config(), arms.SEEDS.value
    sweeps = {arm: arms.trained(arm, change, "test", seeds) for arm, change in ARMS.items()}
    sweeps["teacher"] = arms.teacher("test")
    fixed = arms.teacher_accuracy("test")

    edge = min(fixed, *(sweeps[arm].highest for arm in ("dscd", *CONTROLS)))
    metrics = {"accuracy": edge, "teacher_fixed_accuracy": fixed}
    details: dict[str, Any] = {}
    for suffix, target in (("", edge), ("_95", EASY)):
        passes, control = arms.compare(sweeps, CONTROLS, target)
        assert control is not None
        ratio = arms.ratio(sweeps["dscd"], sweeps[control], target)
        assert ratio is not None  # both reach the accuracy
        metrics |= {
            f"passes_ratio{suffix}": ratio.value,
            f"passes_ratio{suffix}_low": ratio.low,
            f"passes_ratio{suffix}_high": ratio.high,
        } | {f"passes{suffix}_{arm}": value for arm, value in passes.items()}
        details[f"better_control{suffix}"] = control
        details[f"reached{suffix}"] = ratio.reached
        print(f"passes at {target:.1%} (mean of {seeds} seeds)")
        for arm, sweep in sweeps.items():
            needed = f"{passes[arm]:6.2f}" if arm in passes else "     -"
            print(f"  {arm:14} {needed}   highest accuracy {sweep.highest:.1%}")
        print(f"  dscd / {control}: {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")
    details |= {
        "seeds": seeds,
        "problems": config.problems,
        "thresholds": list(config.thresholds),
        "points": {arm: [[p.accuracy, p.nfe] for p in of.points] for arm, of in sweeps.items()},
        "by_seed": {
            "teacher" if arm == "teacher" else f"{arm}_{seed}": points
            for arm, of in sweeps.items()
            for seed, points in enumerate(of.by_seed)
        },
        "highest_accuracy": {arm: of.highest for arm, of in sweeps.items()},
    }
    print(results.write("dscd_share", metrics, **details))


if __name__ == "__main__":
    app.run(main)
