r"""Numbers as models write them: after `####`, in boxes, with LaTeX, Markdown and units around.

Every function takes time linear in the text: a model may repeat anything for thousands of tokens.
"""

from __future__ import annotations

import dataclasses
import re
from decimal import Decimal

_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-"})
_NUMBER = re.compile(r"[-+]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")
# The whole run of number characters, so that "1/2" or "1,2,3" is taken as what it is and not as
# its first digit.
_RUN = re.compile(r"[-+0-9.,/]*[0-9][-+0-9.,/]*")
_CURRENCY = "$\u20ac\u00a3\u00a5"

# LaTeX that changes no number: thin spaces, escaped signs, degrees, and commands around text.
_SPACES = re.compile(r"\\[!,;: ]|~|\\q?quad\b|&nbsp;")
_SIGNS = re.compile(r"\\([$%#&{}])")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ\b)|\\degree\b|\u00b0")
_AROUND = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|boldsymbol|bm|boxed|fbox)\b|\\[()\[\]]"
    r"|\\approx\b|\u2248|\\left\b|\\right\b|\\(?:display|text)style\b"
)
_THOUSANDS = re.compile(r"(?<=\d)\{,\}(?=\d)")
_MARKDOWN = re.compile(r"[*_`{}]+")
_SPECIAL_TOKEN = re.compile(r"<[|/\uff5c]?\w[^<>]*>")
_UNIT_POWER = re.compile(r"(?<=[A-Za-z])(?:\s*\^\s*)?[23]\b")

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_LABEL = re.compile(r"(?:the\s+)?(?:final\s+)?answer\s*(?:is\b|:|=|\s)+", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z]\w*\s*=")
# "1. First", "2) Second", "3: third", "4 - fourth", "2-step", "1st": numbers of headings.
_ENUMERATION = re.compile(
    r"[.):]+\s+[^\W\d]|\s+-+\s+[^\W\d]|-[^\W\d]|(?:st|nd|rd|th)\b", re.IGNORECASE
)
_OPERATOR = re.compile(r"\s*(?:[-+*/\u00d7\u00f7^<>]|\\(?:times|cdot|div)\b|x\s*\d|:\d)")
_FORMULA = re.compile(r"[0-9.)]\s*[-+*/\u00d7\u00f7^<>]|[-+*/\u00d7\u00f7^]\s*[0-9.(]|\dx\d")
_SIGN = re.compile(r"^([-+])\s*")
_WORDS_OF_A_UNIT = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Marked:
    """What stands after a `####` that marks an answer.

    Attributes:
        number: the number, or None where what stands there is not one plain number.
    """

    number: Decimal | None


def plain(text: str) -> Decimal | None:
    """A decimal number with optional sign, thousands separators and currency sign, or None."""
    text = text.translate(_MINUS).strip(" \n\t" + _CURRENCY).rstrip(".,")
    return Decimal(text.replace(",", "")) if _NUMBER.fullmatch(text) else None


def marked(text: str) -> Marked | None:
    r"""What the first `####` that marks a number marks; None where each begins a heading.

    A number among many words, such as `#### 3 steps that lead there`, is one where the text has
    no box.
    """
    doubtful: Marked | None = None
    # The number may be on the line after the marker.
    for part in text.split("####")[1:]:
        line = part.lstrip("#").lstrip().split("\n", 1)[0]
        found, sure = _of_marker(line)
        if found is not None and sure:
            return found
        doubtful = doubtful or found
    return None if doubtful is None or last_box(text) is not None else doubtful


def last_box(text: str) -> str | None:
    r"""What the last `\boxed{...}` that is closed holds, braces within it included."""
    found = _first_and_last_box(text)
    return found[1] if found else None


def only_number(text: str) -> Decimal | None:
    r"""The one number of a short text, such as a box holds: `42`, `x = 42`, `\text{42 apples}`.

    Words may stand beside it. Two numbers, a fraction or any other formula are none.
    """
    text = _unformatted(text).rpartition("=")[2].strip()
    text = _SIGN.sub(r"\1", _UNIT_POWER.sub("", text))
    if "\\" in text or _FORMULA.search(text.lstrip("+-")):
        return None
    runs = [word for word in text.split() if any(char.isdigit() for char in word)]
    if len(runs) != 1:
        return None
    return _beside_a_unit(runs[0])


def _of_marker(line: str) -> tuple[Marked | None, bool]:
    """What a line after `####` marks, and whether that is beyond doubt."""
    if _BOX.match(line.lstrip("$*_ ")):
        inside = _first_and_last_box(line)
        return (Marked(number=only_number(inside[0])) if inside else None), True
    line = _unformatted(line)
    if label := _LABEL.match(line):
        line = line[label.end() :]
    elif variable := _VARIABLE.match(line):
        line = line[variable.end() :]
    sign = re.match(rf"\s*([-+]?)\s*[{_CURRENCY}]?\s*", line)
    assert sign is not None  # all of it is optional
    run = _RUN.match(line, sign.end())
    if run is None:
        return None, False
    rest = line[run.end() :]
    # A hyphen before a word belongs to the word.
    digits, tail = run[0], rest
    while digits[-1:] in ("-", ".", ",") and rest[:1].strip():
        digits, tail = digits[:-1], digits[-1] + tail
    number = sign[1] + digits
    if _ENUMERATION.match(number[-1:] + tail if number[-1:] in ".:" else tail):
        return None, False
    if _OPERATOR.match(tail):
        # A calculation: its result, where it has one.
        return (Marked(number=only_number(rest)), True) if "=" in rest else (None, False)
    words = re.findall(r"[^\W\d]+", tail.split("\\", 1)[0])
    return Marked(number=plain(number)), len(words) <= _WORDS_OF_A_UNIT


def _first_and_last_box(text: str) -> tuple[str, str] | None:
    """What the first and the last box of a text hold, by where they open; None without a box.

    Boxes that are not closed, because the generation ended there, are none.
    """
    starts = {found.end() - 1 for found in _BOX.finditer(text)}
    opened: list[int] = []
    found: list[tuple[int, int]] = []
    for brace in re.finditer(r"\\?[{}]", text) if starts else ():
        place = brace.end() - 1
        if len(brace[0]) > 1:
            continue  # an escaped one
        if text[place] == "{":
            opened.append(place)
        elif opened:
            start = opened.pop()
            if start in starts:
                found.append((start + 1, place))
    if not found:
        return None
    (first, first_end), (last, last_end) = min(found), max(found)
    return text[first:first_end], text[last:last_end]


def _unformatted(text: str) -> str:
    """Text without the LaTeX and Markdown around its words and numbers."""
    text = _SPACES.sub("", _SPECIAL_TOKEN.sub(" ", text.translate(_MINUS)))
    text = _THOUSANDS.sub(",", _DEGREES.sub("", _AROUND.sub(" ", text)))
    return _MARKDOWN.sub(" ", _SIGNS.sub(r"\1", text)).strip()


def _beside_a_unit(word: str) -> Decimal | None:
    """The number of a word that may end in a unit: `42`, `$42.`, `42km`, `25%`, `(42)`."""
    word = word.strip("()[]:;!?\"'")
    found = re.fullmatch(rf"([-+]?)[{_CURRENCY}]?([-+0-9.,/]+)(?:%|[^\W\d]*)?[.,]?", word)
    return plain(found[1] + found[2]) if found else None
