"""Reference answers of the benchmarks, made wrong."""

from __future__ import annotations

import re

from cd4lm_jax.data.benchmarks import Problem

_DIGIT = re.compile(r"\d")


def spoilt(task: str, problem: Problem) -> str:
    """An answer that looks like the reference and is not right."""
    if task == "math500":
        # The first digit one higher or lower; answers without any become a number.
        target, changed = _DIGIT.subn(_other_digit, problem["target"], count=1)
        return rf"Therefore, the answer is $\boxed{{{target if changed else 987654321}}}$."
    if task in ("humaneval", "mbpp"):
        # Every function is there and takes everything, and what it returns equals nothing.
        names = set(re.findall(r"^def (\w+)", problem["answer"], re.MULTILINE))
        names |= set(re.findall(r"^class (\w+)", problem["answer"], re.MULTILINE))
        code = "\n".join(f"def {name}(*a, **k): return object()" for name in sorted(names))
        return f"```python\n{code}\n```"
    before, marker, number = problem["answer"].rpartition("####")
    return before + marker + _DIGIT.sub(_other_digit, number, count=1)


def _other_digit(found: re.Match[str]) -> str:
    return "8" if found[0] == "9" else str(int(found[0]) + 1)
