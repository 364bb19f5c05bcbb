from __future__ import annotations

import json
import pathlib
import time
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd4lm_jax.evaluation.judges import numbers

CASES = json.loads((pathlib.Path(__file__).parents[2] / "cases/gsm8k_answers.json").read_text())


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


@pytest.mark.parametrize("output", CASES["right"])
def test_cases_that_are_right(output: str) -> None:
    assert numbers.is_correct(output, CASES["reference"])


@pytest.mark.parametrize(
    ("output", "reference"),
    [(output, CASES["reference"]) for output in CASES["wrong"]]
    + [(output, "1") for output in CASES["wrong_for_1"]],
)
def test_cases_that_are_wrong(output: str, reference: str) -> None:
    assert not numbers.is_correct(output, reference)


@pytest.mark.parametrize(
    "heading",
    [
        "Step 2",
        "Answer",
        "**Answer**",
        "1. First",
        "1) First",
        "(1) First",
        "1: first",
        "1 - First",
        "1st step",
        "2-step plan",
        "3 steps that lead there",
        "3 + 4",
        "",
    ],
)
def test_a_heading_marks_nothing_and_hides_no_box(heading: str) -> None:
    assert numbers.answer_number(f"#### {heading}\nso \\boxed{{42}}") == 42
    assert numbers.answer_number(f"\\boxed{{42}}\n#### {heading}\nfine") == 42
    assert numbers.answer_number(f"#### {heading}\nso it is\n#### 42") == 42


def test_numbered_headings_are_no_answer() -> None:
    assert numbers.answer_number("#### 1. First\nadd\n#### 2. Second\nadd") is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"#### \boxed{42}", "42"),
        (r"#### $\boxed{42}$ or \boxed{43}", "42"),
        ("#### __42__", "42"),
        ("#### `42`", "42"),
        ("#### $42$", "42"),
        (r"#### \(42\)", "42"),
        ("#### Answer: 42", "42"),
        ("#### The final answer is **42**.", "42"),
        ("#### x = 42", "42"),
        ("#### 3 + 4 = 7", "7"),
        ("#### 42km", "42"),
        ("#### 42 square feet", "42"),
        ("#### 42 dollars per hour", "42"),
        ("#### 42 apples (= 3.5 dozen)", "42"),
        ("#### \u20ac42", "42"),
        ("#### $-42", "-42"),
        ("##### 42", "42"),
        ("#### 42</s>", "42"),
        (r"\boxed{42\text{ apples}}", "42"),
        (r"\boxed{\text{The answer is } 42}", "42"),
        (r"\boxed{\text{\textbf{42}}}", "42"),
        (r"\boxed{42\,\text{m}^2}", "42"),
        (r"\boxed{42 \text{ km/h}}", "42"),
        (r"\boxed{42^\circ}", "42"),
        (r"\boxed{ - 42}", "-42"),
        (r"\boxed{6 \times 7 = 42}", "42"),
        (r"\boxed{\approx 42}", "42"),
        (r"\fbox{42}", "42"),
        (r"\boxed{7}, then \boxed{42", "7"),
    ],
)
def test_units_and_text_beside_a_number(text: str, number: str) -> None:
    assert numbers.answer_number(text) == Decimal(number)


@pytest.mark.parametrize(
    "inside",
    ["1/2", "42 or 43", "42, 43", "6 + 36", "2^5", r"\sqrt{16}", "5:30", "42 apples and 3 pears"],
)
def test_a_box_of_anything_but_one_number_is_no_answer(inside: str) -> None:
    assert numbers.answer_number(rf"\boxed{{{inside}}}") is None


@pytest.mark.parametrize(
    "piece", [r"\boxed{", "#### ", "#### \n", "{", "#### 1.", "1 ", "####1,", " ", "\n", r"\boxed "]
)
def test_reading_takes_time_linear_in_the_text(piece: str) -> None:
    def seconds(count: int) -> float:
        text = piece * count
        start = time.process_time()
        numbers.answer_number(text)
        return time.process_time() - start

    # Quadratic time would take 16 times as long for four times the text.
    assert seconds(40_000) < 8 * max(seconds(10_000), 0.01)
