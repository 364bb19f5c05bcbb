from __future__ import annotations

import numpy as np
import pytest

from cd4lm_jax.evaluation.statistics import comparison


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 0.0625),
        (6, 0, 0.03125),
        (1, 9, 22 / 1024),
        (3, 15, 2 * (1 + 18 + 153 + 816) / 2**18),
    ],
)
def test_mcnemar_is_the_exact_binomial_test(
    only_first: int, only_second: int, p_value: float
) -> None:
    assert comparison.mcnemar(only_first, only_second) == p_value
    assert comparison.mcnemar(only_second, only_first) == p_value


def test_many_problems_neither_overflow_nor_vanish() -> None:
    assert 0 < comparison.mcnemar(1500, 2000) < 1e-15


def test_equal_runs_match_and_worse_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(1000) < 0.8
    same = comparison.compare(first, first)
    assert (same.only_first, same.only_second, same.p_value) == (0, 0, 1.0)
    assert same.difference.interval == pytest.approx([-0.0037, 0.0037], abs=1e-4)
    assert same.matches(0.01)
    worse = first & (rng.random(1000) < 0.9)
    found = comparison.compare(worse, first)
    assert found.only_first == 0
    assert found.p_value < 1e-6
    assert not found.matches(0.01)
    assert found.matches(0.2)
    assert comparison.compare(first, worse).matches(0.01)
    assert f"{found}".startswith("difference -")


def test_few_problems_show_no_match() -> None:
    first, second = np.arange(20) < 15, np.arange(20) >= 5
    found = comparison.compare(first, second)
    assert (found.only_first, found.only_second) == (5, 5)
    assert (found.p_value, found.difference.value) == (1.0, 0.0)
    # No difference is seen, and yet one of two points may be there.
    assert not found.matches(0.02)


def test_a_match_needs_enough_problems_even_where_none_differs() -> None:
    few, many = np.ones(20, bool), np.ones(2000, bool)
    assert not comparison.compare(few, few).matches(0.05)
    assert comparison.compare(many, many).matches(0.01)
    # A truth in which a share of this size is as likely to stay unseen as the level allows.
    assert (1 - comparison.unseen(300)) ** 300 == pytest.approx(0.025)
    # Where each alone has some right, the bootstrap has seen both kinds.
    one, two = np.arange(300) < 290, np.arange(300) >= 10
    both = comparison.compare(one, two)
    assert both.difference.low == pytest.approx(-both.difference.high, abs=0.01)


def test_chance_is_found_as_often_as_the_level_says() -> None:
    rng = np.random.default_rng(1)
    found = [
        comparison.mcnemar(heads, 40 - heads) < 0.05 for heads in rng.binomial(40, 0.5, size=2000)
    ]
    assert 0.01 < np.mean(found) <= 0.055  # exact, so conservative


def test_what_cannot_be_compared_is_an_error() -> None:
    with pytest.raises(ValueError, match="the same problems in every run"):
        comparison.compare([True], [True, False])
    with pytest.raises(ValueError, match="margin=0; give a share"):
        comparison.compare([True], [True]).matches(0)


def test_a_loss_is_said_and_a_gain_is_none() -> None:
    right = np.arange(1000) < 900
    worse = right & (np.arange(1000) >= 60)
    said = comparison.compare(worse, right).loss("student", "teacher")
    assert said is not None
    assert said.startswith("student loses 6.0 points of accuracy against teacher [4.")
    assert ": more than chance alone (McNemar p = " in said
    little = comparison.compare(right & (np.arange(1000) != 0), right).loss()
    assert little is not None
    assert "the first loses 0.1 points of accuracy against the second" in little
    assert "chance may explain it (McNemar p = 1)." in little
    assert comparison.compare(right, worse).loss() is None
    assert comparison.compare(right, right).loss() is None
