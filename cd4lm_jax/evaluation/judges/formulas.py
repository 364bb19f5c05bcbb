r"""Scoring of MATH's answers, which are LaTeX: `\boxed{...}` judged by math-verify.

math-verify (https://github.com/huggingface/Math-Verify) reads both sides with sympy and compares
what they mean, so that `\frac12`, `0.5` and `1/2` are one answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def is_correct(output: str, reference: str) -> bool:
    r"""Whether the last box of an output means the same as the reference.

    An output without a box is judged by the last formula or number that it holds. What takes
    longer than math-verify's five seconds to read or compare is wrong. Call it from the main
    thread: those limits are alarms.

    Args:
        output: what a model wrote.
        reference: the right answer as LaTeX, without `\boxed` and dollar signs.

    Raises:
        ValueError: the reference cannot be read.
    """
    # It loads sympy, which takes seconds.
    from math_verify import parse, verify

    gold = parse(f"${reference}$")
    if not gold:
        raise ValueError(f"reference answer {reference!r} is no LaTeX that math-verify reads")
    return bool(verify(gold, parse(output)))


def score(outputs: Sequence[str], references: Sequence[str]) -> npt.NDArray[np.bool_]:
    """`is_correct` of every problem, bool [N].

    Raises:
        ValueError: different numbers of outputs and references, or a reference that is unreadable.
    """
    pairs = zip(outputs, references, strict=True)
    return np.array([is_correct(output, reference) for output, reference in pairs], dtype=np.bool_)
