r"""Scoring of answers in GSM8K's form (worked steps, then ``#### 42``) by exact number.

As in the benchmark's own code (Cobbe et al., arXiv 2110.14168), the number after the first
``####`` that has one counts and nothing else: what a model writes afterwards cannot mend it.
Prompts of chat models ask for ``\boxed{42}``: where no ``####`` stands, the last box counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import numpy.typing as npt

# What follows the marker: the whole run of number characters, so that "1/2" or "1,2,3" is seen
# as what it is and not as its first digit. A minus sign may stand before the currency sign.
_MARKED = re.compile(r"####\s*([-+]?)\$?([-+0-9.,/]+)")
_NUMBER = re.compile(r"[-+]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
# What may stand beside a number in a box: thin spaces, currency and percent signs, units.
_BESIDE = re.compile(r"\\(?:text|mathrm)\s*\{[^{}]*\}|\\[!,;: $%]|[$%]|(?<=\d)\{,\}")
_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-"})


def answer_number(text: str) -> Decimal | None:
    r"""The number after the first ``####`` that has one, or in the last box, or None.

    Thousands separators, a dollar sign, a full stop after the number and zeros after the decimal
    point make no difference: ``1,080``, ``$1080`` and ``1080.00.`` are one number. Anything else
    that is not one plain number (``1/2``, ``1,2``, ``3-1``) is no answer.

    >>> [answer_number(text) for text in ("9*120=1080 #### $1,080.", r"so \boxed{7}", "#### 1/2")]
    [Decimal('1080'), Decimal('7'), None]
    """
    text = text.translate(_MINUS)
    if "####" not in text:
        boxes = _BOXED.findall(text)
        return _parse(_BESIDE.sub("", boxes[-1]).strip()) if boxes else None
    found = _MARKED.search(text)
    return _parse(found[1] + found[2]) if found else None


def reference_number(text: str) -> Decimal:
    """The right answer's number: after its ``####``, or the text itself where it has none.

    Raises:
      ValueError: no number there.
    """
    number = answer_number(text) if "####" in text else _parse(text.translate(_MINUS).strip(" \n$"))
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


def _parse(text: str) -> Decimal | None:
    """A plain decimal number with optional thousands separators, or None."""
    text = text.rstrip(".,")
    return Decimal(text.replace(",", "")) if _NUMBER.fullmatch(text) else None
