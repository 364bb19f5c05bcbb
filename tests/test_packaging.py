"""The wheel, built from the source distribution, in an environment and a folder of its own.

The environment is a new one. What the project depends on is not installed a second time: a .pth
file adds this interpreter's site-packages behind the new environment's own, without the finder of
an editable install, so `cd4lm_jax` can come from the wheel alone.
"""

from __future__ import annotations

import email
import json
import os
import pathlib
import re
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
from collections.abc import Callable

import pytest

import cd4lm_jax
from cd4lm_jax import bundled
from cd4lm_jax.commands import COMMANDS
from tests.conftest import ROOT

BUILD = "import sys; from setuptools import build_meta as hooks; hooks.build_{}(sys.argv[1])"
SOURCES = ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")
# Package of the wheel: folder of a clone.
MAPPED = {
    "cd4lm_jax/configs": "experiments/configs",
    "cd4lm_jax/bundled/gsm_mini_teacher": "experiments/checkpoints/gsm_mini_teacher",
    "cd4lm_jax/bundled/gsm_mini_answers": "experiments/data/gsm_mini_answers",
}
Run = Callable[..., str]


def build(kind: str, tree: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Calls the build backend as pip does, with the setuptools that is installed."""
    target.mkdir()
    command = [sys.executable, "-c", BUILD.format(kind), str(target)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (built,) = target.iterdir()
    return built


def copied(target: pathlib.Path) -> pathlib.Path:
    """The project without its tests; the build backend leaves files in the tree."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("cd4lm_jax", "launch", "experiments"):
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    for name in SOURCES:
        shutil.copy(ROOT / name, target)
    return target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    work = tmp_path_factory.mktemp("build")
    with tarfile.open(build("sdist", copied(work / "copy"), work / "sdist")) as archive:
        # Python 3.11 before 3.11.4 knows no filters, and 3.12 and 3.13 warn where none is chosen.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(work / "source")
    (source,) = (work / "source").iterdir()
    return build("wheel", source, work / "wheel")


def environment(folder: pathlib.Path) -> pathlib.Path:
    """A new environment that sees the packages of this one; its site-packages."""
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return packages


@pytest.fixture(scope="module")
def installed(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("installed")
    environment(folder)
    pip(folder, "--no-deps", str(wheel))
    return folder


def pip(folder: pathlib.Path, *arguments: str) -> None:
    """What `pip install` does, by the pip of this interpreter or by uv."""
    python = str(folder / "bin" / "python")
    uv = shutil.which("uv", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if uv is not None:
        command = [uv, "pip", "install", "--quiet", "--python", python]
    else:
        command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def run(installed: pathlib.Path, tmp_path: pathlib.Path) -> Run:
    """Runs a program of the environment in an empty folder; stdout, or stderr of a failure."""
    empty = tmp_path / "empty"
    empty.mkdir()

    def call(program: str, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [installed / "bin" / program, *arguments],
            cwd=empty,
            env={
                **{name: os.environ[name] for name in os.environ if name != "PYTHONPATH"},
                "JAX_PLATFORMS": "cpu",
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    return call


def files_in(folder: pathlib.Path) -> set[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in paths if "__pycache__" not in path.parts}


@pytest.mark.slow
def test_a_wheel_has_one_top_level_package_and_all_of_it(installed: pathlib.Path) -> None:
    (record,) = installed.glob("lib/python3*/site-packages/cd4lm_jax-*.dist-info/RECORD")
    held = {line.rpartition(",")[0].rpartition(",")[0] for line in record.read_text().split()}
    held = {name for name in held if "__pycache__" not in name}
    expected = {f"cd4lm_jax/{name}" for name in files_in(ROOT / "cd4lm_jax")}
    for package, folder in MAPPED.items():
        expected |= {f"{package}/{name}" for name in files_in(ROOT / folder)}
    assert {name for name in held if ".dist-info/" not in name} == expected | {"../../../bin/cd4lm"}
    assert (record.parent / "top_level.txt").read_text() == "cd4lm_jax\n"


@pytest.mark.slow
def test_the_metadata_say_what_it_is(installed: pathlib.Path) -> None:
    (folder,) = installed.glob("lib/python3*/site-packages/cd4lm_jax-*.dist-info")
    metadata = email.message_from_string((folder / "METADATA").read_text())
    assert metadata["Name"] == "cd4lm_jax"
    assert metadata["Version"] == cd4lm_jax.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    extras = ["cuda", "tpu", "serve", "data", "gguf", "eval", "dev"]
    assert metadata.get_all("Provides-Extra") == extras
    license_text = (folder / "licenses" / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in license_text
    assert "Copyright 2026 The cd4lm_jax authors" in license_text


USE = """
import pathlib, sys
import cd4lm_jax as cd
from cd4lm_jax.configs import gsm_mini_best
from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.evaluation.report import report

assert pathlib.Path(cd.__file__).is_relative_to(sys.argv[1]), cd.__file__
assert vocabulary.load().encode("Amy has 5 pens.")
config = gsm_mini_best.get_config()
assert config.init == config.teacher == cd.bundled.teacher()
assert len(config.data.open()) > len(config.validation.open()) > 0
out = cd.decode(cd.load(cd.bundled.teacher()), ["Amy has 5 pens. She buys 3. How many pens now?"],
                rule=cd.ConfidenceAdaptive(threshold=0.9), gen_length=64, block_length=32)
assert "#### 8" in out.text[0], out.text
assert "committed_at" in out.to_html()
assert (report.TEMPLATES / "report.css").is_file()
"""


@pytest.mark.slow
def test_the_library_decodes_in_an_empty_folder(installed: pathlib.Path, run: Run) -> None:
    run("python", "-c", USE, str(installed))


@pytest.mark.slow
def test_commands_work_in_an_empty_folder(run: Run, tmp_path: pathlib.Path) -> None:
    overview = run("cd4lm", "--help")
    assert "usage: cd4lm COMMAND " in overview
    assert run("cd4lm", "--version") == f"cd4lm_jax {cd4lm_jax.__version__}\n"
    help_ = run("cd4lm", "decode", "--help")
    assert "usage: cd4lm decode " in help_
    assert "    cd4lm decode " in help_
    again = run("python", "-m", "cd4lm_jax", "decode", "--help")
    assert again == re.sub(r"\bcd4lm (?=decode|frontier)", "python -m cd4lm_jax ", help_)
    plan = run("cd4lm", "distill", "--config=gsm_mini", "--dry_run")
    assert plan.endswith("dry run: nothing was loaded, trained or written\n")
    assert run("cd4lm", "demo", "--dry_run").count("dry run: nothing was loaded") == 2
    assert run("cd4lm", "distill", "--config=gsm_min", code=2).startswith(
        "error: no config 'gsm_min'; did you mean 'gsm_mini'? known: "
    )
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.slow
def test_an_editable_install_finds_what_is_bundled(tmp_path: pathlib.Path) -> None:
    """What `make setup` does; the files stay in the clone."""
    clone = copied(tmp_path / "clone")
    folder = tmp_path / "environment"
    environment(folder)
    pip(folder, "--no-deps", "--no-build-isolation", "--editable", str(clone))
    code = (
        "import cd4lm_jax as cd, cd4lm_jax.configs.gsm_mini as config;"
        "print(cd.__file__, cd.bundled.teacher(), config.TEACHER, sep='\\n')"
    )
    done = subprocess.run(
        [folder / "bin" / "python", "-c", code],
        cwd=tmp_path,
        env={name: os.environ[name] for name in os.environ if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    teacher = "clone/experiments/checkpoints/gsm_mini_teacher"  # tmp_path is the working directory
    assert done.stdout.split() == [str(clone / "cd4lm_jax" / "__init__.py"), teacher, teacher], (
        done.stderr
    )
    assert (folder / "bin" / "cd4lm").is_file()


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", cd4lm_jax.__version__)


def test_bundled_files_are_named_relative_to_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that settings and results of a run hold no path of a machine."""
    monkeypatch.chdir(ROOT)
    assert bundled.teacher() == "experiments/checkpoints/gsm_mini_teacher"
    assert bundled.answers() == "experiments/data/gsm_mini_answers"
    made_by = json.loads(pathlib.Path(bundled.answers(), "answers.json").read_text())
    assert made_by["settings"]["model"] == cd4lm_jax.load(bundled.teacher()).fingerprint


def test_every_command_has_a_main_in_a_clone() -> None:
    assert {path.stem for path in (ROOT / "launch").glob("[!_]*.py")} == set(COMMANDS)
