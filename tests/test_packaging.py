"""The wheel, built from the source distribution, as someone without a clone has it."""

from __future__ import annotations

import email
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = "experiments/configs"
BUILD = "import sys; from setuptools import build_meta as hooks; hooks.build_{}(sys.argv[1])"

pytestmark = pytest.mark.slow


def build(kind: str, tree: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Calls the build backend as pip does, with the setuptools that is installed."""
    subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), target],
        cwd=tree,
        check=True,
        capture_output=True,
    )
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    work = tmp_path_factory.mktemp("build")
    copy = work / "copy"  # the backend leaves files in the tree
    copy.mkdir()
    for name in ("cd4lm_jax", "launch", "experiments"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy)
    for name in ("sdist", "wheel"):
        (work / name).mkdir()
    with tarfile.open(build("sdist", copy, work / "sdist")) as archive:
        # Python 3.11 before 3.11.4 knows no filters, and 3.12 and 3.13 warn where none is chosen.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(work / "source")
    (source,) = (work / "source").iterdir()
    return build("wheel", source, work / "wheel")


@pytest.fixture(scope="module")
def site(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Where the wheel is installed; what it depends on is there already."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def test_holds_the_library_its_commands_and_configs_and_no_more(site: pathlib.Path) -> None:
    held = {path.relative_to(site) for path in site.rglob("*") if path.is_file()}
    held = {path for path in held if not path.parts[0].endswith(".dist-info")}
    expected = {
        path.relative_to(ROOT)
        for folder, kind in (("cd4lm_jax", "**/*"), ("launch", "*.py"), (CONFIGS, "*"))
        for path in (ROOT / folder).glob(kind)
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == expected | {pathlib.Path("experiments/__init__.py")}


def test_says_what_it_is(site: pathlib.Path) -> None:
    (metadata,) = site.glob("*.dist-info/METADATA")
    told = email.message_from_string(metadata.read_text())
    assert told["Name"] == "cd4lm_jax"
    assert told["Requires-Python"] == ">=3.11"
    assert told.get_all("Provides-Extra") == ["cuda", "tpu", "eval", "dev"]


USE = """
import pathlib, sys
import cd4lm_jax as cd
from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.evaluation import report

assert pathlib.Path(cd.__file__).is_relative_to(sys.argv[1])
assert vocabulary.load().encode("Amy has 5 pens.")
one = cd.Trajectory(tokens=[[7]], committed_at=[[1]], confidence=[[0.5]], reason=[[1]],
                    nfe=[1], length=[1])
assert 'committed_at' in page.of(one)
assert (report.TEMPLATES / "report.css").is_file()
"""


def test_works_where_there_is_no_clone(site: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-c", USE, str(site))
    assert "--threshold" in run("-m", "launch.decode", "--help")
    assert "--config.distill.steps" in run("-m", "launch.demo", "--help")
