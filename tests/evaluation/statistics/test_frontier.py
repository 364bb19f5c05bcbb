from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd4lm_jax.evaluation.statistics import frontier
from cd4lm_jax.evaluation.statistics.frontier import Point

Array = npt.NDArray[np.float64]


def points(*pairs: tuple[float, float]) -> list[Point]:
    """Points of (nfe, accuracy), named by their order."""
    return [Point(name=str(i), nfe=nfe, accuracy=acc) for i, (nfe, acc) in enumerate(pairs)]


SWEEP = points((10, 0.96), (2, 0.50), (4, 0.90), (6, 0.88), (8, 0.95), (12, 0.96))


def test_the_frontier_leaves_out_what_is_beaten() -> None:
    assert [(p.nfe, p.accuracy) for p in frontier.pareto(SWEEP)] == [
        (2, 0.50),
        (4, 0.90),
        (8, 0.95),
        (10, 0.96),
    ]
    assert frontier.pareto([]) == []


def test_of_equal_points_the_first_stays() -> None:
    assert [p.name for p in frontier.pareto(points((2, 0.5), (2, 0.5), (2, 0.4)))] == ["0"]


@pytest.mark.parametrize(
    ("accuracy", "passes"),
    [
        (0.90, 4.0),  # a point
        (0.925, 6.0),  # half way between (4, 0.90) and (8, 0.95), past the beaten (6, 0.88)
        (0.70, 3.0),  # half way between (2, 0.50) and (4, 0.90)
        (0.96, 10.0),  # the best, at its fewest passes
        (0.97, None),  # nobody reaches it
        (0.30, 2.0),  # the fastest exceeds it: not extended to the left
    ],
)
def test_passes_at_an_accuracy(accuracy: float, passes: float | None) -> None:
    found = frontier.passes_at_accuracy(SWEEP, accuracy)
    assert found == (None if passes is None else pytest.approx(passes))


def test_no_points_reach_nothing() -> None:
    assert frontier.passes_at_accuracy([], 0.5) is None


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=8),
    st.integers(0, 6),
)
def test_passes_are_those_read_off_the_frontier(pairs: list[tuple[int, int]], target: int) -> None:
    given_points = points(*[(float(nfe), accuracy / 8) for nfe, accuracy in pairs])
    line = frontier.pareto(given_points)
    found = frontier.passes_at_accuracy(given_points, target / 8)
    if line[-1].accuracy < target / 8:
        assert found is None
    else:
        xs, ys = [p.nfe for p in line], [p.accuracy for p in line]
        assert found == pytest.approx(np.interp(target / 8, ys, xs))


def test_chooses_the_fastest_that_is_good_enough() -> None:
    best = frontier.choose(SWEEP, 0.9)
    assert best is not None
    assert best.nfe == 4
    # Not below: an accuracy equal to the floor is good enough.
    assert frontier.choose(SWEEP, 0.96) == SWEEP[0]
    assert frontier.choose(SWEEP, 0.97) is None
    assert frontier.choose([], 0.0) is None
    tied = frontier.choose(points((4, 0.9), (4, 0.95)), 0.9)
    assert tied is not None
    assert tied.accuracy == 0.95


def test_a_point_is_read_from_a_row() -> None:
    row = {"name": "student", "accuracy": 0.9, "nfe": 4, "tps": 100.0}
    assert Point.from_row(row) == Point(name="student", accuracy=0.9, nfe=4.0)


def sweep(
    rng: np.random.Generator, passes: list[float], problems: int = 400
) -> tuple[Array, Array]:
    """Right answers and passes of a sweep that is 60 % to 98 % right, with noise in both."""
    shares = np.linspace(0.6, 0.98, len(passes))
    hardness = np.linspace(0, 1, problems)
    correct = (hardness[None] < shares[:, None]).astype(float)
    return correct, np.array(passes)[:, None] + rng.normal(0, 0.3, (len(passes), problems))


def test_a_sweep_against_itself_is_one_without_spread() -> None:
    correct, nfe = sweep(np.random.default_rng(0), [2, 4, 8])
    found = frontier.passes_ratio_interval(correct, nfe, correct, nfe, accuracy=0.9)
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))
    assert found.reached == 1.0


def test_half_the_passes_are_found_to_be_half() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = sweep(rng, [2, 4, 8]), sweep(rng, [4, 8, 16])
    found = frontier.passes_ratio_interval(*ours, *theirs, accuracy=0.9)
    assert found is not None
    assert found.value == pytest.approx(0.5, abs=0.01)
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.05
    again = frontier.passes_ratio_interval(*ours, *theirs, accuracy=0.9)
    assert found == again


def test_the_ratio_is_that_of_the_frontiers() -> None:
    rng = np.random.default_rng(3)
    (correct, nfe), (other_correct, other_nfe) = sweep(rng, [2, 3, 5, 9]), sweep(rng, [4, 8, 16])
    curves = [
        points(*zip(n.mean(axis=1).tolist(), c.mean(axis=1).tolist(), strict=True))
        for c, n in ((correct, nfe), (other_correct, other_nfe))
    ]
    ours, theirs = (frontier.passes_at_accuracy(curve, 0.85) for curve in curves)
    assert ours is not None
    assert theirs is not None
    found = frontier.passes_ratio_interval(
        correct, nfe, other_correct, other_nfe, accuracy=0.85, samples=10
    )
    assert found is not None
    assert found.value == pytest.approx(ours / theirs)


def test_seeds_are_averaged_and_not_the_best_of_them_taken() -> None:
    correct, nfe = sweep(np.random.default_rng(0), [2, 4, 8])
    seeds = np.stack([correct, correct]), np.stack([nfe, 3 * nfe])
    found = frontier.passes_ratio_interval(*seeds, correct, nfe, accuracy=0.9)
    assert found is not None
    assert found.value == pytest.approx(2.0)


def test_the_accuracy_may_be_that_of_a_reference_run() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = sweep(rng, [2, 4, 8]), sweep(rng, [4, 8, 16])
    reference = np.linspace(0, 1, 400) < 0.975
    fixed = frontier.passes_ratio_interval(*ours, *theirs, accuracy=float(reference.mean()))
    moving = frontier.passes_ratio_interval(*ours, *theirs, accuracy=reference)
    assert fixed is not None
    assert moving is not None
    assert fixed.value == pytest.approx(moving.value)
    # At a fixed accuracy some resamples are too hard to reach it, for the reference run too.
    assert fixed.reached < 1.0
    assert moving.reached == 1.0


def test_an_accuracy_that_is_not_reached_has_no_ratio() -> None:
    correct, nfe = sweep(np.random.default_rng(0), [2, 4, 8])
    for first, second in ((0.5, 1.0), (1.0, 0.5)):
        found = frontier.passes_ratio_interval(
            first * correct, nfe, second * correct, nfe, accuracy=0.9
        )
        assert found is None


def test_at_the_edge_of_what_is_reached_the_bound_is_infinite() -> None:
    rng = np.random.default_rng(0)
    correct, nfe = sweep(rng, [2, 4, 8])
    weaker = correct.copy()
    weaker[:, ::50] = 0
    edge = float(weaker.mean(axis=1).max())
    found = frontier.passes_ratio_interval(weaker, nfe, correct, nfe, accuracy=edge)
    assert found is not None
    assert found.high == np.inf
    assert 0.2 < found.reached < 0.8


def test_says_which_shapes_disagree() -> None:
    correct, nfe = sweep(np.random.default_rng(0), [2, 4, 8])
    with pytest.raises(ValueError, match=r"got \(3, 400\) and \(2, 400\)"):
        frontier.passes_ratio_interval(correct, nfe[:2], correct, nfe, accuracy=0.9)
    with pytest.raises(ValueError, match="got 400 and 399"):
        frontier.passes_ratio_interval(correct, nfe, correct[:, 1:], nfe[:, 1:], accuracy=0.9)
    with pytest.raises(ValueError, match=r"accuracy of shape \(3,\)"):
        frontier.passes_ratio_interval(correct, nfe, correct, nfe, accuracy=[0.9] * 3)
