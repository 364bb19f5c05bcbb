from __future__ import annotations

import math
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cd4lm_jax.evaluation.statistics.aup import accuracy_under_parallelism

# What d3LLM's authors publish. Inputs: AUP_leaderboard/data_llada.yaml and data_dream.yaml of their
# repository at 95581cf (as (TPF, accuracy in per cent)). Outputs: the column AUP of
# static/blogs/text-diffusion/dLLM_Results.csv in hao-ai-lab/hao-ai-lab.github.io at bdd0194.
PUBLISHED: dict[str, dict[str, tuple[list[tuple[float, float]], float]]] = {
    "LLaDA, GSM8K-CoT": {
        "Qwen-2.5-7B-it": ([(1.0, 74.1)], 74.1000),
        "LLaDA": ([(1.0, 72.55)], 72.5500),
        "Fast-dLLM-LLaDA": ([(1.0, 74.79), (2.77, 74.68)], 205.7811),
        "D2F": ([(1.0, 74.98), (2.88, 74.39)], 213.7564),
        "dParallel-LLaDA": ([(1.0, 74.0), (5.14, 72.63)], 358.1422),
        "d3LLM-LLaDA": ([(1.0, 74.02), (9.08, 73.1)], 635.7170),
    },
    "LLaDA, MATH": {
        "Qwen-2.5-7B-it": ([(1.0, 41.15)], 41.1500),
        "LLaDA": ([(1.0, 32.2)], 32.2000),
        "Fast-dLLM-LLaDA": ([(1.0, 32.1), (1.97, 30.82)], 47.1873),
        "D2F": ([(1.0, 29.1), (2.66, 28.94)], 48.9958),
        "dParallel-LLaDA": ([(1.0, 32.0), (3.17, 30.18)], 64.5356),
        "d3LLM-LLaDA": ([(1.0, 32.76), (5.87, 30.92)], 111.7453),
    },
    "LLaDA, HumanEval": {
        "Qwen-2.5-7B-it": ([(1.0, 67.73)], 67.7300),
        "Fast-dLLM-LLaDA": ([(1.0, 38.16), (4.65, 37.8)], 75.2788),
        "D2F": ([(1.0, 41.02), (2.69, 40.64)], 61.9823),
        "dParallel-LLaDA": ([(1.0, 39.68), (10.81, 39.02)], 149.5258),
        "d3LLM-LLaDA": ([(1.0, 39.8), (10.74, 39.6)], 151.5278),
    },
    "Dream, GSM8K-CoT": {
        "EAGLE-3": ([(1.0, 76.57), (5.12, 76.57)], 318.9862),
        "Dream": ([(1.0, 83.94)], 83.9400),
        "Fast-dLLM-Dream": ([(1.0, 83.68), (1.44, 79.0)], 116.4864),
        "Fast-dLLM-v2-7B": ([(1.0, 82.82), (2.21, 81.48)], 176.1064),
        "dParallel-Dream": ([(1.0, 83.8), (3.02, 82.12)], 245.7335),
        "d3LLM-Dream": ([(1.0, 83.47), (5.01, 81.86)], 400.4102),
    },
}


@pytest.mark.parametrize("task", PUBLISHED)
def test_computes_what_its_authors_publish(task: str) -> None:
    methods = {name: _shares(points) for name, (points, _) in PUBLISHED[task].items()}
    best = max(accuracy for points in methods.values() for _, accuracy in points)
    for name, (_, published) in PUBLISHED[task].items():
        found = accuracy_under_parallelism(methods[name], best=best)
        assert found == pytest.approx(published, abs=6e-5), name


def test_without_loss_it_is_the_area_and_with_loss_less() -> None:
    # 1 * 80 before the first point, then 80 over two more tokens a pass.
    flat = [(1.0, 0.8), (3.0, 0.8)]
    assert accuracy_under_parallelism(flat, best=0.8) == pytest.approx(240.0)
    # 80 + (80 + 78 exp(-3 / 40)) / 2 * 2, by hand.
    falling = [(3.0, 0.78), (1.0, 0.8)]
    expected = 160 + 78 * math.exp(-3 / 40)
    assert accuracy_under_parallelism(falling, best=0.8) == pytest.approx(expected)
    # Alpha 0 punishes nothing.
    assert accuracy_under_parallelism(falling, best=0.8, alpha=0) == pytest.approx(238.0)


def test_what_lost_more_than_five_points_does_not_count() -> None:
    kept = accuracy_under_parallelism([(1.0, 0.8), (2.0, 0.75)], best=0.8)
    cut = accuracy_under_parallelism([(1.0, 0.8), (2.0, 0.75), (9.0, 0.74)], best=0.8)
    assert kept == cut > 80
    # Left out is the point, not what is faster still.
    bridged = accuracy_under_parallelism([(1.0, 0.8), (2.0, 0.7), (3.0, 0.8)], best=0.8)
    assert bridged == pytest.approx(240.0)


def test_of_equal_parallelism_the_most_accurate_counts() -> None:
    both = [(1.0, 0.5), (1.0, 0.8), (2.0, 0.8)]
    assert accuracy_under_parallelism(both, best=0.8) == pytest.approx(160.0)


def test_nothing_right_is_nothing() -> None:
    assert accuracy_under_parallelism([(1.0, 0.0), (4.0, 0.0)], best=0.0) == 0.0


@example([(1.5, 5e-324)])
@given(st.lists(st.tuples(st.floats(0.1, 50), st.floats(0, 1)), min_size=1, max_size=6))
def test_it_is_bounded_by_the_area_under_the_best(points: list[tuple[float, float]]) -> None:
    best = max(accuracy for _, accuracy in points)
    found = accuracy_under_parallelism(points, best=best)
    area = 100 * best * max(tpf for tpf, _ in points)
    # Products of subnormal numbers are rounded to multiples of the smallest, not to 53 bits.
    assert 0 <= found <= area * (1 + 1e-9) + sys.float_info.min


@pytest.mark.parametrize(
    ("points", "best", "message"),
    [
        ([], 0.5, "no point"),
        ([(0.0, 0.5)], 0.5, "positive TPF"),
        ([(1.0, 0.6)], 0.5, "none above the best"),
        ([(1.0, 72.55)], 74.98, "shares of problems"),
        ([(1.0, float("nan"))], 0.5, "shares of problems"),
    ],
)
def test_says_what_is_wrong(points: list[tuple[float, float]], best: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        accuracy_under_parallelism(points, best=best)


def _shares(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(tpf, percent / 100) for tpf, percent in points]
