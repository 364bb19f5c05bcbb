"""What the pages name exists: links, files, commands, settings, tests; the diagram is the code."""

from __future__ import annotations

import pathlib
import re

import pytest

from cd4lm_jax.commands import COMMANDS, config_files
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.selection import ByDecoding
from cd4lm_jax.evaluation.answers import AnswersConfig
from cd4lm_jax.evaluation.benchmark import BenchmarkConfig
from cd4lm_jax.evaluation.keeping import Confident
from cd4lm_jax.evaluation.sweep import SweepConfig
from cd4lm_jax.settings.config import describe
from tests.conftest import ROOT

PAGES = [
    *ROOT.glob("[RW]*.md"),
    *(ROOT / "docs").glob("*.md"),
    ROOT / "tests" / "README.md",
    ROOT / "experiments" / "results" / "recipes.md",
]
TESTS = {
    str(file.relative_to(ROOT / "tests")): file.read_text()
    for file in (ROOT / "tests").rglob("*.py")
}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors(page: pathlib.Path) -> set[str]:
    """The targets that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@each_page
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@each_page
def test_files_exist(page: pathlib.Path) -> None:
    for name in re.findall(r"`((?:cd4lm_jax|launch|experiments|tests)/[\w./]+)`", page.read_text()):
        assert (ROOT / name).exists() or (page.parent / name).exists(), name


@each_page
def test_commands_configs_and_settings_exist(page: pathlib.Path) -> None:
    text = page.read_text()
    for command in re.findall(r"(?:`|^)(?:cd4lm +|python -m launch\.)([a-z_]+)", text, re.M):
        assert command in COMMANDS, command
    for config in re.findall(r"--config=([a-z][a-z0-9_]+)\b(?!/|\.py)", text):
        assert config in config_files.names(), config
    kinds = (TrainConfig, BenchmarkConfig, SweepConfig, AnswersConfig)
    known = {name for kind in kinds for name, _, _ in describe(kind)}
    known |= {name for name, _, _ in describe(ByDecoding, where="config.selection")}
    known |= {name for name, _, _ in describe(Confident, where="config.keep")}
    for name in re.findall(r"--(config\.[a-z][\w.]*)=", text):
        assert any(f"{one}.".startswith(f"{name}.") for one in known), name


@each_page
def test_modules_that_are_run_exist(page: pathlib.Path) -> None:
    for module in re.findall(r"python -m ((?:experiments|tests|docs)\.[\w.]*\w)", page.read_text()):
        if "NAME" not in module:
            assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module


def test_tests_exist() -> None:
    """Those that tests/README.md names; a star stands for the rest of a name."""
    text = (ROOT / "tests" / "README.md").read_text()
    named = re.findall(r"`((?!tests/)[\w/]+\.(?:py|sh))(?:::(test_\w+)(\*?))?`", text)
    assert len(named) > 80
    for file, test, star in named:
        assert (ROOT / "tests" / file).exists(), file
        if test:
            end = "" if star else r"\b"
            assert re.search(rf"def {test}{end}", TESTS[file]), f"{file}::{test}"


def rooms() -> set[tuple[str, str]]:
    """Which room imports which, in the code."""
    found = set()
    for file in [*(ROOT / "cd4lm_jax").rglob("*.py"), *(ROOT / "launch").glob("*.py")]:
        parts = file.relative_to(ROOT).with_suffix("").parts
        room = parts[0] if parts[0] == "launch" else parts[1]
        if room in ("__init__", "__main__", "bundled"):
            continue  # what users import, and paths
        imports = re.findall(r"^\s*from cd4lm_jax\.(\w+)[\w.]* import", file.read_text(), re.M)
        names = re.findall(r"^\s*from cd4lm_jax import (\w+)", file.read_text(), re.M)
        found |= {(room, other) for other in (*imports, *names) if other not in (room, "bundled")}
    return found


def test_imports_run_along_the_diagram_and_without_a_circle() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    drawn = set(re.findall(r"^ +(\w+) --> (\w+)$", text, re.MULTILINE))
    reached = set(drawn)
    while more := {(a, d) for a, b in reached for c, d in drawn if b == c} - reached:
        reached |= more
    assert not {(a, b) for a, b in reached if a == b}
    assert rooms() - reached == set()
    assert drawn - {("launch", "commands")} <= rooms()
