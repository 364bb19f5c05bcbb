"""The environment that the Makefile makes, with stand-ins for Python and uv that log calls."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

from tests.conftest import ROOT

# Makes `bin/python` and `bin/uv` as `-m venv` and `-m pip install uv` do.
PYTHON = """#!/bin/sh
echo "$(basename "$0") $*" >>calls
case "$*" in
*"-m venv "*) for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python" ;;
*"pip install"*uv==*) cp "$0" "$(dirname "$0")/uv" ;;
esac
"""


@pytest.fixture
def project(tmp_path: pathlib.Path) -> pathlib.Path:
    for name in ("Makefile", "requirements.txt", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python3"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def make(project: pathlib.Path, *arguments: str) -> tuple[int, str, list[str]]:
    """Exit code, stderr, and what Python and uv were asked for."""
    calls = project / "calls"
    calls.unlink(missing_ok=True)
    done = subprocess.run(
        ["make", f"PYTHON={project}/python3", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr, calls.read_text().splitlines() if calls.exists() else []


def test_setup_installs_the_lock_and_this_project_and_removes_nothing(
    project: pathlib.Path,
) -> None:
    code, err, calls = make(project, "setup")
    assert (code, err) == (0, "")
    assert not any("--clear" in call or " sync" in call or "uninstall" in call for call in calls)
    *_, lock, editable = calls
    assert lock.startswith("uv pip install ")
    assert lock.endswith(" -r requirements.txt")
    assert editable.endswith(" --no-deps --editable .")
    assert make(project, "setup") == (0, "", [])


def test_extras_are_installed_and_kept(project: pathlib.Path) -> None:
    assert make(project, "setup")[0] == 0
    for arguments in (["EXTRAS=cuda"], []):
        code, err, calls = make(project, "setup", *arguments)
        assert (code, err) == (0, "")
        assert calls[-1].endswith(" --constraint requirements.txt --editable .[cuda]")
        assert make(project, "setup", *arguments)[2] == []
        (project / "requirements.txt").touch()  # as a pull does


@pytest.mark.parametrize("target", ["setup", "demo", "test", "lint", "clean"])
@pytest.mark.parametrize("tools", [[], ["uv"]])
def test_an_environment_of_the_users_own_stays(
    project: pathlib.Path, target: str, tools: list[str]
) -> None:
    own = project / ".venv"
    (own / "bin").mkdir(parents=True)
    for name in ("jax_cuda", *(f"bin/{tool}" for tool in tools)):
        (own / name).write_text("the user's")
    before = sorted(own.rglob("*"))
    code, err, calls = make(project, target)
    assert sorted(own.rglob("*")) == before
    assert calls == []
    if target != "clean":
        assert code == 2
        message = (
            "error: .venv exists and was not made here; name another folder, such as "
            "VENV=.venv-make"
        )
        assert err.splitlines()[0] == message
    assert make(project, "setup", "VENV=other")[0] == 0
    assert (project / "other" / ".ready").exists()


def test_clean_removes_what_was_made_here(project: pathlib.Path) -> None:
    assert make(project, "setup")[0] == 0
    assert make(project, "clean")[0] == 0
    assert not (project / ".venv").exists()


def test_an_interrupted_setup_goes_on(project: pathlib.Path) -> None:
    python = project / "python3"
    python.write_text(PYTHON.replace("cp", "exit 1; cp", 1))
    assert make(project, "setup")[0] == 2
    python.write_text(PYTHON)
    assert make(project, "setup")[0] == 0
    assert (project / ".venv" / ".ready").exists()
