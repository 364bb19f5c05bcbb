"""Docstrings: their examples run, what they refer to exists, the reference builds."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import inspect
import pathlib
import re
import subprocess
from collections.abc import Callable, Iterator

import pytest

import cd4lm_jax as cd

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / "cd4lm_jax").rglob("*.py"))


def name_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("module", [name_of(p) for p in SOURCES if ">>> " in p.read_text()])
def test_examples_in_docstrings(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried
    assert not failed


@functools.cache
def classes() -> dict[str, list[type]]:
    """The classes of the library by name."""
    found: dict[str, list[type]] = {}
    for path in SOURCES:
        module = importlib.import_module(name_of(path))
        for name, value in vars(module).items():
            if inspect.isclass(value) and value.__module__ == module.__name__:
                found.setdefault(name, []).append(value)
    return found


def resolves(target: str) -> bool:
    """Whether a name such as `cd4lm_jax.load` or `Views.weight` exists."""
    parts = target.split(".")
    if parts[0] != "cd4lm_jax":
        return any(_has(value, parts[1:]) for value in classes()[parts[0]])
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        return _has(found, parts[cut:])
    return False


def _has(found: object, names: list[str]) -> bool:
    for name in names:
        kinds = found.__mro__ if inspect.isclass(found) else ()
        fields = {field for kind in kinds for field in getattr(kind, "__annotations__", {})}
        if not hasattr(found, name) and name not in fields:
            return False
        found = getattr(found, name, None)
    return True


def docstrings(path: pathlib.Path) -> Iterator[str]:
    """All docstrings of a file, those of attributes among them."""
    for node in ast.walk(ast.parse(path.read_text())):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield inspect.cleandoc(value.value)


def test_what_a_docstring_refers_to_exists() -> None:
    """Names of the package, and of the fields and methods of its classes."""
    text = "\n".join(doc for path in SOURCES for doc in docstrings(path))
    names = set(re.findall(r"`(cd4lm_jax(?:\.\w+)+)`", text))
    names |= {m for m in re.findall(r"`([A-Z]\w+\.\w+)`", text) if m.split(".")[0] in classes()}
    assert len(names) > 30
    assert [name for name in sorted(names) if not resolves(name)] == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_docstrings_are_in_one_style(path: pathlib.Path) -> None:
    """Google's: names in single back-ticks, sections indented by four spaces."""
    for text in docstrings(path):
        assert not re.search(r"(?<!`)``(?!`)|:(?:func|class|meth|data|attr|mod|exc):`", text), text
        for first in re.findall(r"^ *(?:Args|Returns|Raises|Attributes|Yields):\n( +)", text, re.M):
            assert len(first) % 4 == 0, text


@pytest.mark.slow
def test_the_reference_builds_without_a_warning(
    tmp_path: pathlib.Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_python("-m", "docs.reference", str(tmp_path))
    assert done.returncode == 0, done.stderr
    front = (tmp_path / "cd4lm_jax.html").read_text()
    assert [name for name in cd.__all__ if f'id="{name}"' not in front] == []
    assert len([*tmp_path.rglob("*.html")]) >= len(SOURCES)
