"""Where the code of an answer is: in fenced blocks among prose, between tags, or all of it."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Sequence

from cd4lm_jax.evaluation.judges import source

_OPENING = re.compile(r"(`{3,}|~{3,})[ \t]*([^\s`~]*)[^`~]*$")
_TAGS = (
    ("[BEGIN]", "[DONE]"),
    ("[PYTHON]", "[/PYTHON]"),
    ("<code>", "</code>"),
    ("<answer>", "</answer>"),
)
_NO_CODE = ("pycon", "pytb")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block.

    Attributes:
        language: what its fence says, in lower case.
        code: between the fences, without the indentation of the opening one.
        closed: whether a fence ends it, rather than the end of the answer.
    """

    language: str
    code: str
    closed: bool

    @property
    def is_python(self) -> bool:
        """Whether its fence says so."""
        return self.language.startswith(("py", "ipython")) and self.language not in _NO_CODE


def completion(output: str, names: Sequence[str] = (), stub: str = "") -> str:
    """The code of an answer.

    Of fenced blocks the last that defines what is asked for, with the definitions of others before
    it; where none does, the last marked as Python, else the last. A closing fence without an
    opening one ends the code that is before it. Without a fence all of the answer, or what is
    between `[BEGIN]` and `[DONE]` and the like, without prose around it. A block that the end of
    the generation cut off counts up to there.

    Args:
        output: what a model wrote.
        names: what the code must define, as far as that is known.
        stub: the beginning of a function that the answer may continue.
    """
    text = _between_tags(_after_thought(output.replace("\r\n", "\n")))
    found = blocks(text)
    if not found:
        return source.without_prose(text, stub)
    if not _defining(found, names):
        # The opening fence may have been in the prompt.
        before = _from_the_start(text, stub)
        if before is not None:
            return before
    return _chosen(found, names, stub)


def blocks(text: str) -> list[Block]:
    """The fenced blocks of Markdown, in order; in linear time."""
    found: list[Block] = []
    fence = language = indent = ""
    body: list[str] = []

    def close(closed: bool) -> None:
        found.append(Block(language=language, code="\n".join(body), closed=closed))
        body.clear()

    for line in text.split("\n"):
        opening = _OPENING.search(line) if "```" in line or "~~~" in line else None
        if not fence:
            if opening:
                fence, language = opening[1], _language(opening[2])
                indent = line[: len(line) - len(line.lstrip(" \t>"))]
            continue
        marks = line.strip(" \t>")
        if marks.startswith(fence) and not marks.strip(fence[0]):
            close(True)
            fence = ""
        elif opening and opening[1].startswith(fence) and opening[2] and marks == opening[0]:
            # Another opens: this one was never closed.
            close(True)
            fence, language = opening[1], _language(opening[2])
        elif line.rstrip().endswith(fence):
            body.append(line.rstrip()[: -len(fence)].removeprefix(indent))
            close(True)
            fence = ""
        else:
            body.append(line.removeprefix(indent))
    if fence:
        close(False)
    return found


def _chosen(found: list[Block], names: Sequence[str], stub: str) -> str:
    defining = _defining(found, names)
    if not defining:
        usable = [block for block in found if block.is_python] or found
        # A function's body is indented, an example of its use is not.
        bodies = [block for block in usable if stub and block.code[:1] in (" ", "\t")]
        return _code((bodies or usable)[-1])
    joined = []
    for number, block in enumerate(found):
        code = _code(block)
        if number in defining:
            joined.append(code)
        elif not block.language or block.is_python:
            defined = source.definitions(code)
            if source.defines_alone(code) and not any(name in defined for name in names):
                joined.append(code)
    return "\n".join(joined)


def _defining(found: list[Block], names: Sequence[str]) -> set[int]:
    """Of each name the last block that defines it, not only its head if that can be."""
    numbers = set()
    defined = [source.definitions(_code(block)) for block in found] if names else []
    for name in names:
        which = [number for number, inside in enumerate(defined) if name in inside]
        full = [number for number in which if defined[number][name]]
        numbers.update((full or which)[-1:])
    return numbers


def _code(block: Block) -> str:
    code = block.code
    if source.parse(code) is None and source.parse(textwrap.dedent(code)) is not None:
        # Indented as a whole, as in a list; unless it is the rest of a function.
        dedented = textwrap.dedent(code)
        code = dedented if source.definitions(dedented) and source.runs(dedented) else code
    return code if block.closed else source.without_prose(code)


def _from_the_start(text: str, stub: str) -> str | None:
    """What is before the first fence, where that is code whose opening fence is missing."""
    lines = text.split("\n")
    first = next(number for number, line in enumerate(lines) if "```" in line or "~~~" in line)
    opening = _OPENING.search(lines[first])
    if opening is None or opening[2]:
        return None
    before = "\n".join([*lines[:first], lines[first][: opening.start()]]).rstrip()
    before = source.without_prose(before, stub)
    return before if source.has_statement(before) else None


def _between_tags(text: str) -> str:
    fenced = "```" in text or "~~~" in text
    for opening, closing in _TAGS:
        # In brackets they end an answer; the others may be in a string of its code.
        if fenced and opening.startswith("<"):
            continue
        start = text.find("\n" + opening) + 1 if not text.startswith(opening) else 0
        # A closing one before it: the opening one was in the prompt.
        opens = text.startswith(opening, start) and not 0 <= text.find(closing) < start
        begin = start + len(opening) if opens else 0
        end = text.find(closing, begin)
        inside = text[begin : end if end >= 0 else None]
        if (opens or end >= 0) and inside.strip():
            # Spaces before the first line are indentation.
            text = inside.lstrip("\n").rstrip()
    return text


def _after_thought(text: str) -> str:
    _, _, after = text.rpartition("</think>")
    return after if after.strip() else text


def _language(word: str) -> str:
    return word.strip("{}.").lower()
