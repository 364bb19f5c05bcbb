from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.evaluation.judges import blocks, sandbox, source
from cd4lm_jax.evaluation.judges import code as judge

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
    monkeypatch.setattr(sandbox.Running, "ready", lambda _: None)
    monkeypatch.setattr(sandbox.Running, "wait", lambda _: ended)
    with pytest.raises(sandbox.SandboxError, match="a right answer passed: False"):
        judge.check_runs()


# Cases, each of which stands for a kind.
CASES = json.loads((pathlib.Path(__file__).parents[2] / "cases/code_answers.json").read_text())
_HUMANEVAL = CASES["humaneval"]
PLUS = {
    "mbpp": Problem(id="3", question="", answer="", target=CASES["mbpp_tests"]),
    "humaneval": Problem(
        id="4",
        question=_HUMANEVAL["stub"],
        answer="",
        target=_HUMANEVAL["tests"],
        entry_point=_HUMANEVAL["entry_point"],
        stub=_HUMANEVAL["stub"],
    ),
}


@pytest.mark.usefixtures("_confined")
@pytest.mark.parametrize(("form", "kind", "output"), CASES["right"])
def test_cases_that_are_right(form: str, kind: str, output: str) -> None:
    assert judge.is_correct(output, PLUS[form]), kind


@pytest.mark.usefixtures("_confined")
@pytest.mark.parametrize(("form", "kind", "output"), CASES["wrong"])
def test_cases_that_are_wrong(form: str, kind: str, output: str) -> None:
    assert not judge.is_correct(output, PLUS[form]), kind


_DEFINITION = "def plus(x):\n    return x + 1"


@pytest.mark.parametrize(
    "output",
    [
        f"Sure:\n{_DEFINITION}\n```\nIt adds one.",
        f"Here is the code:\n\n{_DEFINITION}\n\nThis adds one.",
        f"```{{python}}\n{_DEFINITION}\n```",
        f"```python3.11 title=plus.py\n{_DEFINITION}\n```",
        f"~~~python\n{_DEFINITION}\n~~~",
        f"````python\n{_DEFINITION}\n````",
        f"```python\r\n{_DEFINITION}\r\n```\r\n".replace("\n    ", "\r\n    "),
        "1. Code:\n   ```python\n   def plus(x):\n       return x + 1\n   ```\n2. Done.",
        "> ```python\n> def plus(x):\n>     return x + 1\n> ```",
        f"```python\n{_DEFINITION}```",
        f"```\n{_DEFINITION}\n```\n```python\nprint(plus(int(input())))\n```",
        f"```python\ndef plus(x):\n    return x\n```\nBetter:\n```python\n{_DEFINITION}\n```",
        f"```python\n{_DEFINITION}\n```\nIts form:\n```python\ndef plus(x):\n    ...\n```",
        f"```python\n{_DEFINITION}\n```\n```bash\npython plus.py\n```",
        f"```python\n{_DEFINITION}\n```\n```pycon\n>>> plus(1)\n2\n```",
        "```python\ndef plus(x):\n    return x + ONE\n```\nwith\n```python\nONE = 1\n```",
        f"```python\n{_DEFINITION}\n\nprint(plus(",
        f"<think>\n```python\ndef plus(x): return 0\n```\n</think>\n{_DEFINITION}",
        f"[PYTHON]\n{_DEFINITION}\n[/PYTHON]\nIt adds.",
        f"{_DEFINITION}\n[DONE]\n\nAnother task.\n[BEGIN]\ndef plus(x):\n    return 7\n[DONE]",
        f"<answer>\n{_DEFINITION}\n</answer>",
        "```python\nplus = lambda x: x + 1\n```",
        f"```python\n{_DEFINITION}\n",
        f"First:\n```python\n{_DEFINITION}\n```python\nprint(plus(1))\n```",
    ],
)
def test_the_block_that_defines_the_function_is_the_code(output: str) -> None:
    code = judge.completion(output, PLUS["mbpp"])
    namespace: dict[str, object] = {}
    exec(code, namespace)  # written above
    assert namespace["plus"](1) == 2  # type: ignore[operator]


@pytest.mark.parametrize(
    "output",
    [
        "    return x + 1",
        "return x + 1",
        "```python\n    return x + 1\n```",
        "```python\nreturn x + 1\n```",
        "y = x\n    return y + 1",
        "    return x + 1\n\nThe function adds one.",
        "    return x + 1\n```\nExample:\n```python\nprint(plus(1))\n```",
        "```python\n    return x + 1\n```\nExample:\n```python\nprint(plus(1))\n```",
        f"The function:\n{_DEFINITION}\nIt adds one.",
        f"from typing import List\n\n{_DEFINITION}",
    ],
)
def test_the_rest_of_a_function_continues_its_stub(output: str) -> None:
    namespace: dict[str, object] = {}
    exec(judge.program(output, PLUS["humaneval"]), namespace)
    assert namespace["plus"](1) == 2  # type: ignore[operator]


@pytest.mark.parametrize(
    "piece", ["\n", "```\n", "`", "[BEGIN]\n", "a\n", "    x\n", "~~~ a\n", " "]
)
def test_code_is_found_in_time_linear_in_the_answer(piece: str) -> None:
    def seconds(count: int) -> float:
        start = time.process_time()
        blocks.completion("```python\n" + piece * count, ["plus"], "def plus():\n")
        blocks.completion(piece * count, ["plus"], "def plus():\n")
        return time.process_time() - start

    # Quadratic time would take 64 times as long for eight times the text; the least of some, for
    # others use the processor too.
    short, long = (min(seconds(count) for _ in range(3)) for count in (750, 6_000))
    assert long < 40 * max(short, 0.01)


@pytest.mark.parametrize(
    "output",
    ["(" * 50_000, "-" * 10**6 + "1", "a" + ".b" * 10**6, "1+" * 10**6 + "1", "a\0b", "\ud800 = 1"],
)
def test_text_that_no_parser_reads_is_wrong_and_ends_nothing(output: str) -> None:
    start = time.process_time()
    judge.program(output, PLUS["humaneval"])
    judge.program(f"```python\n{output}\n```", PLUS["mbpp"])
    assert time.process_time() - start < 10


@pytest.mark.parametrize("read", [source.parse, source.runs, source.without_prose])
def test_one_thread_reads_code_at_a_time(read: Callable[[str], object]) -> None:
    # The parser's own failure comes by chance, once in thousands of programs.
    with ThreadPoolExecutor(1) as pool:
        with source._alone():
            waiting = pool.submit(read, "x = 1")
            with pytest.raises(TimeoutError):
                waiting.result(0.2)
        assert waiting.result(10)


def test_names_that_tests_ask_for() -> None:
    target = "import math\nfor n in range(3):\n    assert sum(n) == math.pi and Node(n)"
    problem = Problem(id="", question="", answer="```python\ndef sum(a): pass\n```", target=target)
    assert judge.asked_names(problem) == ["Node", "sum"]
    assert judge.asked_names(TRIPLE) == ["triple"]


@pytest.mark.usefixtures("_confined")
def test_imports_of_the_tests_come_before_them_and_serve_the_answer() -> None:
    target = "import math\nassert math.isclose(area(2), math.pi * 4)"
    problem = Problem(id="", question="", answer="", target=target)
    assert judge.is_correct("def area(r): return math.pi * r * r", problem)
    assert not judge.is_correct("def area(r): return math.pi * r", problem)


@pytest.mark.usefixtures("_confined")
def test_tests_with_classes_of_their_own_share_the_process() -> None:
    target = "class A:\n    x = 3\nassert f(A()) == 3"
    problem = Problem(id="", question="", answer="", target=target)
    assert judge.is_correct("def f(a): return a.x", problem)
    assert not judge.is_correct("def f(a): return a.y", problem)
    assert judge.note([DOUBLE, problem]) == judge.NOTE
    assert judge.note([DOUBLE, TRIPLE]) == ""
