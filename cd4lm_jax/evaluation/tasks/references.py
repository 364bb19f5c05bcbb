"""Unreadable references are named before anything is decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def check(problems: Sequence[Mapping[str, Any]], score: Callable[[Any, Any], object]) -> None:
    """Reads the reference of every problem, as judging does.

    Args:
        problems: of a benchmark; `where` or `id` is what names one.
        score: judges outputs and their problems; it raises ValueError where a reference cannot be
            read.

    Raises:
        ValueError: references that cannot be read: how many, and the first with its place.
    """
    faults = []
    for number, problem in enumerate(problems):
        try:
            score([""], [problem])
        except ValueError as error:
            name = problem.get("where") or f"problem {problem.get('id', number)}"
            faults.append(f"{name}: {error}")
    if faults:
        more = f" ({len(faults)} such problems in all)" if len(faults) > 1 else ""
        raise ValueError(f"{faults[0]}{more}")
