"""Whether a decoded answer is right, and how near it is to the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd4lm_jax.distillation.judging import edit_distance, judge, similarity

TOKENS = st.lists(st.integers(0, 3), max_size=12)


def plain(first: list[int], second: list[int]) -> int:
    """The textbook's recursion as a table."""
    table = [[i + j for j in range(len(second) + 1)] for i in range(len(first) + 1)]
    for i, a in enumerate(first, 1):
        for j, b in enumerate(second, 1):
            replaced = table[i - 1][j - 1] + (a != b)
            table[i][j] = min(replaced, table[i - 1][j] + 1, table[i][j - 1] + 1)
    return table[-1][-1]


@given(TOKENS, TOKENS)
def test_edit_distance_is_levenshteins(first: list[int], second: list[int]) -> None:
    assert edit_distance(first, second) == plain(first, second)
    assert 0 <= similarity(first, second) <= 1
    assert (similarity(first, second) == 1) == (first == second)


def test_judges_are_named() -> None:
    assert judge("agreement") is None
    number = judge("number")
    assert number is not None
    right = number(["so #### 4", "so #### 5"], ["2 + 2 = 4 #### 4", "#### 4"])
    np.testing.assert_array_equal(right, [True, False])
    own = judge("tests.distillation.test_judging:always")
    assert own is not None
    assert own(["a"], ["b"]).all()


def always(outputs: list[str], references: list[str]) -> np.ndarray:
    return np.ones(len(outputs), bool)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nunber", "judge='nunber': .*number"),
        ("no_such_module:score", "cannot be imported .*no_such_module"),
        ("math:no_such_function", "cannot be imported .*no_such_function"),
        ("math:pi", "is no function"),
        (":score", "cannot be imported"),
    ],
)
def test_no_such_judge(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge(name)
