from __future__ import annotations

import pathlib
import re

import pytest

from cd4lm_jax.data import benchmarks
from cd4lm_jax.evaluation import answers, sweep
from cd4lm_jax.evaluation.judges import numbers
from cd4lm_jax.evaluation.tasks import references, registry

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


NAMED = r"bad_reference\.jsonl, line 6: reference answer '#### six' holds no number"


def test_an_unreadable_reference_is_named_before_anything_is_decoded(
    tmp_path: pathlib.Path,
) -> None:
    """No model is loaded, for there is none."""
    with pytest.raises(ValueError, match=NAMED):
        registry.task("gsm8k").problems(str(BAD))
    assert len(registry.task("gsm8k").problems(str(BAD), count=5)) == 5
    nowhere, output = str(tmp_path / "nowhere"), str(tmp_path / "out")
    with pytest.raises(ValueError, match=NAMED):
        answers.write_answers(
            answers.AnswersConfig(output=output, model=nowhere, source=str(BAD), splits=("train",))
        )
    with pytest.raises(ValueError, match=NAMED):
        sweep.sweep(
            sweep.SweepConfig(
                output=output,
                teacher=nowhere,
                student=nowhere,
                source=str(BAD),
                problems=8,
                selection_problems=8,
            )
        )
    assert not (tmp_path / "out").exists()


def test_math_references_are_read_too(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"problem": "p", "solution": "\\\\boxed{5}", "unique_id": "a"}\n'
        '{"problem": "p", "solution": "s", "answer": ""}\n'
    )
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: reference answer ''"):
        registry.task("math500").problems(str(path))
