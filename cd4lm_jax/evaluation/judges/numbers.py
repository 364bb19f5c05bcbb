r"""Scoring of answers in GSM8K's form (worked steps, then `#### 42`) by exact number.

As in the benchmark's own code (Cobbe et al., arXiv 2110.14168), the first `####` that marks a
number counts and nothing else: what a model writes afterwards cannot correct it. Prompts of chat
models ask for `\boxed{42}`: where no `####` marks a number, the last box counts. `####` also
begins a heading of Markdown, such as `#### Step 1: add`, which marks nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from cd4lm_jax.evaluation.judges import written_numbers


def answer_number(text: str) -> Decimal | None:
    r"""The number that the first marking `####` has, or the last box, or None.

    Thousands separators, currency signs, a full stop after the number, zeros after the decimal
    point, bold type and units beside it make no difference: `1,080`, `$1080` and `**1080.00** km`
    are one number. Anything else that is not one plain number (`1/2`, `1,2`, `3-1`) is no answer.

    >>> [answer_number(text) for text in ("9*120=1080 #### $1,080.", r"so \boxed{7}", "#### 1/2")]
    [Decimal('1080'), Decimal('7'), None]
    """
    found = written_numbers.marked(text)
    if found is None:
        inside = written_numbers.last_box(text)
        return None if inside is None else written_numbers.only_number(inside)
    return found.number


def reference_number(text: str) -> Decimal:
    """The right answer's number: after its `####`, or the text itself where it has none.

    Raises:
        ValueError: no number there.
    """
    number = answer_number(text) if "####" in text else written_numbers.plain(text)
    if number is None:
        raise ValueError(
            f"reference answer {text[-60:]!r} holds no number; expected '#### 42' or '42'"
        )
    return number


def is_correct(output: str, reference: str) -> bool:
    """Whether a model's output ends in the reference's number, exactly.

    Raises:
        ValueError: the reference holds no number.
    """
    return answer_number(output) == reference_number(reference)


def score(outputs: Sequence[str], references: Sequence[str]) -> npt.NDArray[np.bool_]:
    """`is_correct` of every problem, bool [N].

    Raises:
        ValueError: different numbers of outputs and references, or a reference without a number.
    """
    if len(outputs) != len(references):
        raise ValueError(
            f"score: got {len(outputs)} outputs and {len(references)} references, "
            "expected one of each a problem"
        )
    pairs = zip(outputs, references, strict=True)
    return np.array([is_correct(output, reference) for output, reference in pairs], dtype=np.bool_)
