from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd4lm_jax.evaluation.judges import numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = 7.\n#### 7", "7"),
        ("#### 42", "42"),
        ("####42", "42"),
        ("#### 42.", "42"),
        ("#### 42.00", "42"),
        ("#### 0.50", "0.5"),
        ("#### .5", "0.5"),
        ("#### -7", "-7"),
        ("#### \u22127", "-7"),
        ("#### $1,080", "1080"),
        ("#### -$5", "-5"),
        ("#### 109,200,000", "109200000"),
        ("#### 42 apples", "42"),
        ("#### 42<|endoftext|>", "42"),
        ("#### 42\n#### 43", "42"),
        (r"\boxed{41} or \boxed{42}", "42"),
        (r"so \boxed{\$1,080}.", "1080"),
        (r"\boxed{-3.50\text{ dollars}}", "-3.5"),
        (r"\boxed{12{,}000\,\mathrm{km}}", "12000"),
        (r"\boxed{25\%}", "25"),
        (r"#### 42 \boxed{43}", "42"),
    ],
)
def test_reads_the_number_after_the_marker(text: str, number: str) -> None:
    assert numbers.answer_number(text) == Decimal(number)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer is 42",
        "### 42",
        "####",
        "#### forty-two",
        "#### 1/2",
        "#### 1,2",
        "#### 1,2,3",
        "#### 3-1",
        "#### 1.2.3",
        "#### --4",
        "#### 1/2 #### 42",
        r"\boxed{}",
        r"\boxed{\frac{84}{2}}",
        r"\boxed{42} or \boxed{many}",
        r"#### \boxed{42}",
        "boxed{42}",
    ],
)
def test_anything_else_is_no_answer(text: str) -> None:
    assert numbers.answer_number(text) is None
    assert not numbers.is_correct(text, "#### 42")


@given(st.integers(-(10**12), 10**12))
def test_separators_and_zeros_make_no_difference(number: int) -> None:
    reference = f"#### {number}"
    for written in (f"{number}", f"{number:,}", f"{number}.0", f"{number:,}.", f"{number:+}"):
        assert numbers.is_correct(f"So it is.\n#### {written}", reference)
    assert not numbers.is_correct(f"#### {number + 1}", reference)
    assert not numbers.is_correct(f"#### {number}.01", reference)
    assert numbers.is_correct(f"#### {number}0", reference) == (number == 0)


def test_a_reference_may_be_the_number_alone() -> None:
    assert numbers.is_correct("#### 1080", " 1,080\n")
    assert numbers.is_correct("#### -3", "-3")


@pytest.mark.parametrize("reference", ["", "seven", "#### seven", "3 + 4 = 7"])
def test_a_reference_without_a_number_is_an_error(reference: str) -> None:
    with pytest.raises(ValueError, match="holds no number"):
        numbers.is_correct("#### 7", reference)


def test_scores_problem_by_problem() -> None:
    found = numbers.score(["#### 1", "#### 2", "none"], ["#### 1", "#### 3", "#### 3"])
    assert found.dtype == np.bool_
    assert found.tolist() == [True, False, False]
    with pytest.raises(ValueError, match="got 1 outputs and 2 references"):
        numbers.score(["#### 1"], ["#### 1", "#### 2"])
