from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd4lm_jax.evaluation.statistics import proportion


def test_accuracy_comes_with_an_interval() -> None:
    found = proportion.accuracy(np.arange(500) < 480)
    assert found.value == 0.96
    assert 0.93 < found.low < 0.96 < found.high < 0.99


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_equals_the_published_interval(right: int, total: int, low: float, high: float) -> None:
    assert proportion.wilson(right, total) == pytest.approx((low, high), abs=5e-5)


def test_all_right_of_few_leaves_room_for_wrong_ones() -> None:
    assert proportion.accuracy(np.ones(16, bool)).interval != [1.0, 1.0]
    assert proportion.accuracy(np.ones(16, bool)).low < 0.85
    assert proportion.accuracy(np.zeros(16, bool)).high > 0.15


@given(st.integers(1, 5000), st.data(), st.floats(0.5, 0.999))
def test_holds_the_share_and_solves_its_equation(
    total: int, data: st.DataObject, level: float
) -> None:
    right = data.draw(st.integers(0, total))
    low, high = proportion.wilson(right, total, level)
    share = right / total
    assert 0 <= low <= share <= high <= 1
    assert low < high
    # Wilson's bounds are the shares p that lie z standard errors of p from the measured one.
    for bound in (low, high):
        if 0 < bound < 1:
            distance = abs(share - bound) / math.sqrt(bound * (1 - bound) / total)
            assert math.erf(distance / math.sqrt(2)) == pytest.approx(level, abs=1e-6)


def test_says_what_is_no_share() -> None:
    with pytest.raises(ValueError, match="one value a problem"):
        proportion.accuracy([])
    with pytest.raises(ValueError, match="got 3 of 2"):
        proportion.wilson(3, 2)
    with pytest.raises(ValueError, match="level is 95"):
        proportion.wilson(1, 2, 95)
