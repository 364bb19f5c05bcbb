"""Docstrings: their examples run, what they refer to exists, the reference builds."""

from __future__ import annotations

import functools
import importlib
import pathlib
import re

import pytest
from absl import flags

from cd4lm_jax.commands import COMMANDS
from cd4lm_jax.commands.demo import DemoConfig
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.evaluation.answers import AnswersConfig
from cd4lm_jax.evaluation.benchmark import BenchmarkConfig
from cd4lm_jax.evaluation.keeping import Confident
from cd4lm_jax.evaluation.sweep import SweepConfig
from cd4lm_jax.settings.config import describe
from cd4lm_jax.settings.flags import help_of

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / "cd4lm_jax").rglob("*.py"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "tests" / "README.md"]
SCRIPTS = [path for room in ("experiments", "launch") for path in (ROOT / room).rglob("*.py")]
TEXTS = sorted({*SOURCES, *PAGES, *SCRIPTS} - {ROOT / "CHANGELOG.md"})  # that says what was
QUOTED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FILE = re.compile(r"(cd4lm_jax|docs|experiments|launch|tests)/[\w./-]+")
# Flags that absl does not know: of `cd4lm` itself, and of lm-eval and Slurm.
OTHERS = {"--help", "--version", "--apply_chat_template", "--gen_kwargs", "--model_args"}
OTHERS |= {"--account", "--gpus-per-node", "--gpus-per-task", "--ntasks-per-node", "--partition"}
OTHERS |= {"--signal"}


def name_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def known_flags() -> frozenset[str]:
    """The flags and settings of all commands."""
    for command in COMMANDS:
        if command != "lm_eval":
            importlib.import_module(f"cd4lm_jax.commands.{command}")
    configs = (TrainConfig, SweepConfig, BenchmarkConfig, AnswersConfig, DemoConfig)
    settings = {name for config in configs for name, _, _ in describe(config)}
    settings |= {name for name, _, _ in describe(Confident, where="config.keep")}
    groups = {name.rpartition(".")[0] for name in settings}
    dotted = help_of("cd4lm_jax.commands.placement_flags")
    return frozenset(f"--{name}" for name in {*flags.FLAGS, *settings, *groups, *dotted})


@functools.cache
def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        return _has(found, parts[cut:])
    return False


def _has(found: object, names: list[str]) -> bool:
    for name in names:
        known = hasattr(found, name) or name in getattr(found, "__annotations__", {})
        if not known:
            return False
        found = getattr(found, name, None)
    return True


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_files_and_flags_that_are_named_exist(path: pathlib.Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "DESIGN.md" not in text
    named = {match[1] for match in QUOTED.finditer(text)}
    names = {name for name in named if re.fullmatch(r"cd4lm_jax(\.\w+)+", name)}
    assert {name for name in names if not resolves(name)} == set()
    files = {name for name in named if FILE.fullmatch(name) and "NAME" not in name}
    folders = (ROOT, path.parent)
    assert {n for n in files if not any((folder / n).exists() for folder in folders)} == set()
    given = {re.split("[= ]", name)[0] for name in named if re.match(r"--[a-z]", name)}
    given = {name for name in given if not re.search(r"[A-Z*]", name)}  # `--config.FIELD`
    assert given - known_flags() - OTHERS == set()
