"""The benchmarks' own answers are right, and the same answers spoilt are wrong.

All of them where that takes seconds; of MBPP every fifth and of what is spoilt a part. The rest:
`python -m tests.soak_references`.
"""

from __future__ import annotations

import pathlib

import pytest

from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.evaluation.judges import code, sandbox
from cd4lm_jax.evaluation.tasks import registry
from tests.evaluation.judges.references import spoilt

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def _confined() -> None:
    try:
        code.check_runs()
    except sandbox.SandboxError as error:
        pytest.skip(str(error))


def _right(name: str, problems: list[Problem]) -> list[str]:
    judge = registry.task(name).judge(allow_code_execution=True)
    found = judge([problem["answer"] for problem in problems], problems)
    return [problem["id"] for problem, good in zip(problems, found, strict=True) if good]


def _spoilt(name: str, problems: list[Problem]) -> list[str]:
    judge = registry.task(name).judge(allow_code_execution=True)
    found = judge([spoilt(name, problem) for problem in problems], problems)
    return [problem["id"] for problem, good in zip(problems, found, strict=True) if good]


@pytest.mark.parametrize(("split", "count"), [("train", 7473), ("test", 1319)])
def test_gsm8k(benchmark_data: pathlib.Path, split: str, count: int) -> None:
    problems = registry.task("gsm8k").problems(str(benchmark_data / f"gsm8k_{split}.jsonl"), split)
    assert len(_right("gsm8k", problems)) == len(problems) == count
    assert _spoilt("gsm8k", problems) == []


def test_math500(benchmark_data: pathlib.Path) -> None:
    problems = registry.task("math500").problems(str(benchmark_data / "math500.json"))
    assert len(_right("math500", problems)) == len(problems) == 500
    assert _spoilt("math500", problems[::10]) == []
    # The answer alone is as good as the solution that leads to it.
    alone = [problem | {"answer": rf"\boxed{{{problem['target']}}}"} for problem in problems[::10]]
    assert len(_right("math500", alone)) == 50


@pytest.mark.usefixtures("_confined")
def test_humaneval() -> None:
    problems = registry.task("humaneval").problems()
    assert len(_right("humaneval", problems)) == len(problems) == 164
    assert _spoilt("humaneval", problems[::10]) == []


@pytest.mark.usefixtures("_confined")
def test_mbpp(benchmark_data: pathlib.Path) -> None:
    problems = registry.task("mbpp").problems(str(benchmark_data / "mbpp.jsonl"), "full")
    some = [problem for problem in problems if int(problem["id"]) % 5 == 0]
    assert len(_right("mbpp", some)) == len(some) == 194
    assert _spoilt("mbpp", some[::10]) == []
    # The tests of two need their set-up, and that the classes of the answer: it comes between.
    special = [problem for problem in problems if problem["id"] in ("367", "927")]
    assert _right("mbpp", special) == ["367", "927"]
    for problem in special:
        problem["target"] = problem["target"][problem["target"].index("assert") :]
    assert _right("mbpp", special) == []
