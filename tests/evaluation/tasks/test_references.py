from __future__ import annotations

import pathlib
import re

import pytest

from cd4lm_jax.data import benchmarks
from cd4lm_jax.evaluation.judges import numbers
from cd4lm_jax.evaluation.tasks import references

BAD = pathlib.Path(__file__).parents[2] / "cases" / "bad_reference.jsonl"


def _score(outputs: list[str], problems: list[benchmarks.Problem]) -> object:
    return numbers.score(outputs, [problem["target"] for problem in problems])


def test_an_unreadable_reference_is_named_by_file_and_line() -> None:
    problems = benchmarks.word_problems(str(BAD), "test")
    references.check(problems[:5], _score)
    message = f"^{re.escape(str(BAD))}, line 6: reference answer '#### six' holds no number"
    with pytest.raises(ValueError, match=message):
        references.check(problems, _score)


def test_where_there_is_no_file_the_id_names_it_and_all_are_counted() -> None:
    problems = [benchmarks.Problem(id=f"test/{n}", question="", answer="", target=n) for n in "1ab"]
    with pytest.raises(ValueError, match=r"^problem test/a: .* \(2 such problems in all\)$"):
        references.check(problems, _score)
