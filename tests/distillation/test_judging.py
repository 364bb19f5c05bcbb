"""Whether a decoded answer is right."""

from __future__ import annotations

import numpy as np
import pytest

from cd4lm_jax.distillation.judging import judge


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
