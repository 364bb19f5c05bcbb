from __future__ import annotations

import pathlib
import subprocess

import pytest

from cd4lm_jax.runtime import provenance


def git(folder: pathlib.Path, *words: str) -> None:
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(folder), *author, *words], check=True, capture_output=True)


def test_the_commit_is_that_of_the_code_and_says_what_it_lacks(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    found = provenance.commit.__wrapped__
    assert found() == "unknown"
    git(tmp_path, "init", "-q")
    (tmp_path / "README").write_text("somebody's")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    (tmp_path / "cd4lm_jax").mkdir()
    (tmp_path / "cd4lm_jax/__init__.py").touch()
    assert found() == "unknown"  # an installed package within somebody's repository
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "two")
    clean = found()
    assert clean.isalnum()
    (tmp_path / "notes.txt").touch()
    assert found() == clean
    (tmp_path / "cd4lm_jax/new.py").touch()
    assert found() == f"{clean}+changes"


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.commit.__wrapped__() == "unknown"


def test_the_environment_is_complete() -> None:
    found = provenance.environment()
    assert list(found) == ["commit", "date", "device", "versions"]
    assert {"python", "jax", "jaxlib"} <= set(found["versions"])
    assert " x " in found["device"]
