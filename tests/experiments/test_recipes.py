from __future__ import annotations

import pathlib

import numpy as np
import pytest

from cd4lm_jax.distillation.rollout import Rollout
from experiments.benchmarks import ablations, recipes
from experiments.benchmarks.ablations import Sweep
from experiments.configs import gsm_mini

CONFIGS = {
    name: ablations.run(name, change, 2, pathlib.Path("runs"))
    for name, change in recipes.CHANGES.items()
}


def test_recipes_differ_in_how_they_learn_alone() -> None:
    demo = gsm_mini.get_config()
    for name, config in CONFIGS.items():
        assert (config.output, config.seed, config.data.seed) == (f"runs/{name}_2", 2, 2)
        assert config.steps == config.eval_every == demo.steps * (1 + ("twice" in name))
        assert (config.init, config.optimizer, config.execution) == (
            demo.init,
            demo.optimizer,
            demo.execution,
        )
        assert config.data.source == demo.data.source
        assert config.data.batch_size == demo.data.batch_size
        assert config.validation == demo.validation
    assert all(CONFIGS[name].teacher is None for name in recipes.CONTROLS)
    assert CONFIGS["dscd"].objective == demo.objective
    learnt = [
        (c.corruption, c.objective, c.teacher, c.average, c.curriculum, c.steps)
        for c in CONFIGS.values()
    ]
    assert len(set(learnt)) == len(learnt)


def test_cost_counts_passes_beside_the_students_own() -> None:
    assert recipes.cost(CONFIGS["cross_entropy"]) == {"teacher_passes": 0, "student_passes": 0}
    assert recipes.cost(CONFIGS["dscd"]) == {"teacher_passes": 1, "student_passes": 0}
    for name, config in CONFIGS.items():
        if isinstance(config.corruption, Rollout):
            count, taught = recipes.cost(config), config.teacher is not None
            passes = config.corruption.passes - 1 + taught * config.distance.final
            assert sum(count.values()) == passes + taught, name


def sweep(*points: tuple[float, float], problems: int = 100) -> Sweep:
    """One seed, a threshold a point of so much accuracy and so many passes."""
    correct = [np.arange(problems) < round(accuracy * problems) for accuracy, _ in points]
    passes = [np.full(problems, nfe) for _, nfe in points]
    return Sweep(np.stack(correct)[None], np.stack(passes)[None])


def test_variants_are_compared_with_the_better_control_at_each_accuracy() -> None:
    sweeps = {
        "cross_entropy": sweep((0.94, 2.0), (0.98, 4.0), (1.0, 8.0)),
        "plain": sweep((0.95, 1.0), (0.97, 3.0)),
        "diffusion": sweep((0.9, 1.0), (1.0, 6.0)),
        "entropy_3": sweep((0.5, 9.0)),
        "entropy_9": sweep((0.4, 9.0)),
        "good": sweep((0.96, 1.0), (0.99, 2.0), (1.0, 3.0)),
        "poor": sweep((0.96, 9.0)),
    }
    found = recipes.compared(sweeps, teacher=0.99)
    assert [at.control for at in found.values()] == [
        "diffusion",
        "diffusion",
        "cross_entropy",
        "plain",
    ]
    edge, same, high, low = found.values()
    assert same == edge  # the teacher's is 99 % too
    assert (edge.accuracy, edge.passes["good"], edge.passes["diffusion"]) == (0.99, 2.0, 5.5)
    assert edge.ratios["good"].value == pytest.approx(2 / 5.5)
    assert "poor" not in edge.passes
    assert high.passes["good"] == pytest.approx(5 / 3)
    assert high.passes["cross_entropy"] == 4.0
    assert low.ratios["poor"].value == pytest.approx(9.0)
    # Of a teacher that no control reaches, what they reach is asked.
    assert (
        recipes.compared(
            sweeps | {"cross_entropy": sweep((0.95, 2.0)), "diffusion": sweep((0.98, 3.0))}, 1.0
        )["_top"].accuracy
        == 0.98
    )
    table = recipes.rows(found, sweeps).splitlines()
    assert table[2].startswith("| good | 2.00 | 0.36 [")
    assert table[-1].startswith(("| plain | – | – |", "| poor | – | – |"))


def test_seeds_are_averaged_threshold_by_threshold() -> None:
    one, other = sweep((0.9, 2.0), (1.0, 4.0)), sweep((0.8, 1.0), (0.9, 3.0))
    both = Sweep(*(np.concatenate(parts) for parts in zip(one, other, strict=True)))
    assert [(p.accuracy, p.nfe) for p in both.points] == [(0.85, 1.5), (0.95, 3.5)]
    assert both.highest == 0.95
    assert both.by_seed == [[[0.9, 2.0], [1.0, 4.0]], [[0.8, 1.0], [0.9, 3.0]]]
    assert ablations.compare({"both": both}, (), 0.95).passes == {"both": 3.5}
