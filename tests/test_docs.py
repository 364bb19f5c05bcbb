"""Docstrings: their examples run, what they refer to exists, the reference builds."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import pathlib
import re
import subprocess
from collections.abc import Callable, Iterator

import pytest

import cd4lm_jax as cd

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / "cd4lm_jax").rglob("*.py"))
ROLE = re.compile(r":(?:func|class|meth|data|attr|mod|exc):`([\w.]+)`")


def name_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("module", [name_of(p) for p in SOURCES if ">>> " in p.read_text()])
def test_examples_in_docstrings(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried
    assert not failed


def scopes(module: str, line: int) -> Iterator[object]:
    """What a name in a docstring may start from: the class around it, the module."""
    found = importlib.import_module(module)
    for value in vars(found).values():
        if inspect.isclass(value) and value.__module__ == module:
            lines, start = inspect.getsourcelines(value)
            if start <= line < start + len(lines):
                yield value
    yield found


def resolves(target: str, module: str, line: int) -> bool:
    if target.startswith("cd4lm_jax."):
        parts = target.split(".")
        for cut in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:cut]))
            except ModuleNotFoundError:
                continue
            return _has(found, parts[cut:])
    if any(_has(scope, target.split(".")) for scope in scopes(module, line)):
        return True
    sibling = f"{module.rpartition('.')[0]}.{target}"
    return target.isidentifier() and importlib.util.find_spec(sibling) is not None


def _has(found: object, names: list[str]) -> bool:
    for name in names:
        known = hasattr(found, name) or name in getattr(found, "__annotations__", {})
        if not known:
            return False
        found = getattr(found, name, None)
    return True


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_what_a_docstring_refers_to_exists(path: pathlib.Path) -> None:
    text = path.read_text()
    targets = [(m[1], text.count("\n", 0, m.start()) + 1) for m in ROLE.finditer(text)]
    module = name_of(path)
    assert [target for target, line in targets if not resolves(target, module, line)] == []


@pytest.mark.slow
def test_the_reference_builds_without_a_warning(
    tmp_path: pathlib.Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_python("-m", "docs.reference", str(tmp_path))
    assert done.returncode == 0, done.stderr
    front = (tmp_path / "cd4lm_jax.html").read_text()
    assert [name for name in cd.__all__ if f'id="{name}"' not in front] == []
    assert len([*tmp_path.rglob("*.html")]) >= len(SOURCES)
