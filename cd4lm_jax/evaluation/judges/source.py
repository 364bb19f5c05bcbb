"""What Python source defines and whether it is any, for text that a model wrote.

Parsing is all that happens here: nothing is run. Text that is too long to be an answer is not
parsed: hostile text of megabytes costs a parser minutes.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import re
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator

_MOST_CHARACTERS = 200_000
_MOST_CUTS = 50


# Parsing in several threads at once fails by chance (CPython issue 106905), and so does the change
# of filters for warnings.
_LOCK = threading.RLock()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One thread at a time, without warnings about the text."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def parse(text: str) -> ast.Module | None:
    """The syntax tree of a program; None where it is none."""
    if len(text) > _MOST_CHARACTERS:
        return None
    with _alone():
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def runs(text: str) -> bool:
    """Whether text is a program: `return` outside a function, for one, is none."""
    if len(text) > _MOST_CHARACTERS:
        return False
    with _alone():
        try:
            compile(text, "<answer>", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def definitions(text: str) -> dict[str, bool]:
    """Names that a program defines at its top level, and whether with anything inside.

    A function of a docstring and `pass`, `...` or `raise NotImplementedError` has nothing inside.
    Of text that is no program, such as one that the end of a generation cut off, what its
    lines say.
    """
    tree = parse(text)
    if tree is None:
        found = re.findall(r"^(?:async[ \t]+def|def|class)[ \t]+(\w+)", text, re.MULTILINE)
        found += re.findall(r"^(\w+)[ \t]*=", text, re.MULTILINE)
        return dict.fromkeys(found, True)
    return {name: full for node in tree.body for name, full in _defined(node)}


def defines_alone(text: str) -> bool:
    """Whether a program does nothing but define and import, so that it may stand before another."""
    tree = parse(text)
    kinds = (
        ast.Import,
        ast.ImportFrom,
        ast.FunctionDef,
        ast.AsyncFunctionDef,
        ast.ClassDef,
        ast.Assign,
        ast.AnnAssign,
    )
    return tree is not None and bool(tree.body) and all(isinstance(n, kinds) for n in tree.body)


def has_statement(text: str) -> bool:
    """Whether text is a program that does more than to name things: "Answer" is a program too."""
    tree, body = parse(text), parse(f"def _():\n{text}")
    nodes: list[ast.stmt] = []
    if tree is not None:
        nodes = tree.body
    elif body is not None and isinstance(body.body[0], ast.FunctionDef):
        nodes = body.body[0].body
    return any(not isinstance(node, ast.Expr) and not _is_label(node) for node in nodes)


def free_names(text: str) -> list[str]:
    """Names that a program uses without defining them, in order; built-in ones are not free."""
    tree = parse(text)
    if tree is None:
        return []
    used: dict[str, None] = {}
    bound: set[str] = set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                used[node.id] = None
            else:
                bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return [name for name in used if name not in bound]


def library_modules(text: str) -> list[str]:
    """Free names of a program that are modules of the standard library it forgot to import."""
    tree = parse(text)
    if tree is None:
        return []
    nodes = list(ast.walk(tree))
    values = [node.value for node in nodes if isinstance(node, ast.Attribute)]
    bases = [value.id for value in values if isinstance(value, ast.Name)]
    uses = [node.id for node in nodes if isinstance(node, ast.Name)]
    return [
        name
        for name in free_names(text)
        if name in sys.stdlib_module_names and bases.count(name) == uses.count(name)
    ]


def imports(text: str) -> str:
    """The import statements at the top level of a program."""
    tree = parse(text)
    nodes = tree.body if tree else []
    return "\n".join(ast.unparse(n) for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom)))


def ways(text: str, before: str = "") -> list[str]:
    """The ways in which text may continue code: as it is, or with indentation that it lost."""
    return [text, "    " + text, textwrap.indent(text, "    ")] if before else [text]


def without_prose(text: str, before: str = "") -> str:
    """The code of text that has prose before or after it, or that was cut off.

    Whole statements of the top level are left out, from the end until the rest is a program, and
    before them what precedes the first statement that can only be code. Text that does not become
    a program so stays as it is.

    Args:
        text: of an answer.
        before: code that it continues.
    """
    if len(text) > _MOST_CHARACTERS or any(runs(before + way) for way in ways(text, before)):
        return text
    lines = text.split("\n")
    starts = [0]
    first = re.compile(r"(?:from|import|def|class|async|@)\b|@\w")
    starts += [number for number, line in enumerate(lines) if first.match(line)][:1]
    for start in starts:
        kept = _longest(lines[start:], before)
        if kept is not None:
            return kept
    return text


def _longest(lines: list[str], before: str) -> str | None:
    """The longest run of statements from the first on that is a program, with more than names."""
    offset = before.count("\n")
    for _ in range(_MOST_CUTS):
        text = "\n".join(lines)
        if not text.strip():
            return None
        wrong = _wrong_line(before + text)
        if wrong is None:
            return text if before or has_statement(text) else None
        at = min(max(wrong - offset - 1, 0), len(lines) - 1)
        # Back to where that statement of the top level begins.
        while at > 0 and (not lines[at].strip() or lines[at][0] in " \t)]}"):
            at -= 1
        lines = lines[:at]
    return None


def _wrong_line(text: str) -> int | None:
    """The line of the first error, from 1; None where there is none."""
    with _alone():
        try:
            compile(text, "<answer>", "exec")
        except SyntaxError as error:
            return error.lineno or 1
        except (ValueError, RecursionError, MemoryError):
            return 1
    return None


def _defined(node: ast.stmt) -> Iterator[tuple[str, bool]]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name, not all(_is_empty(inner) for inner in node.body)
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [name for target in targets for name in ast.walk(target)]
        yield from ((name.id, True) for name in names if isinstance(name, ast.Name))
    elif isinstance(node, (ast.If, ast.Try, ast.With)):
        for inner in node.body:
            yield from _defined(inner)
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (((alias.asname or alias.name).split(".")[0], True) for alias in node.names)


def _is_label(node: ast.stmt) -> bool:
    """Such as "Answer: below", which Python reads as an annotation."""
    return isinstance(node, ast.AnnAssign) and node.value is None


def _is_empty(node: ast.stmt) -> bool:
    if isinstance(node, ast.Raise):
        return "NotImplementedError" in ast.dump(node)
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Pass) or is_constant
