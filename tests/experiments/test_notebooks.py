"""The notebooks: script and notebook of a pair say the same, nothing is left in them, they run."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from typing import Any

import jupytext
import nbformat
import papermill
import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "notebooks"
# The setting that makes each a matter of seconds, through its cell of parameters.
TINY: dict[str, dict[str, Any]] = {
    "distil_and_decode": {"STEPS": 2, "BATCH": 4, "PROBLEMS": 4, "THRESHOLDS": [0.9]},
    "evaluate_a_checkpoint": {"PROBLEMS": 8, "THRESHOLDS": [0.7, 0.95]},
    "your_own_commit_rule": {"PROBLEMS": 8, "THRESHOLDS": [0.7, 0.95]},
}
# What a reader must see in the end: kinds of output, and words.
SHOWN = {
    "distil_and_decode": (["iframe", "iframe", "iframe", "image/png"], ["speed-", "student"]),
    "evaluate_a_checkpoint": (["iframe", "image/png", "iframe"], ["McNemar p =", "chosen: "]),
    "your_own_commit_rule": (["iframe", "iframe", "image/png"], ["Easing needs "]),
}


def read(path: pathlib.Path) -> nbformat.NotebookNode:
    return jupytext.read(path)


def test_every_notebook_is_a_pair_that_is_run() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == sorted(TINY)
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(TINY)


@pytest.mark.parametrize("name", TINY)
def test_script_and_notebook_say_the_same(name: str) -> None:
    script, notebook = (read(FOLDER / f"{name}.{kind}") for kind in ("py", "ipynb"))

    def cells(found: nbformat.NotebookNode) -> list[tuple[str, str, list[str]]]:
        return [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in found.cells]

    assert cells(script) == cells(notebook), "run `make notebooks`"
    assert notebook.metadata.kernelspec.name == "python3"
    assert [tags for _, _, tags in cells(notebook) if tags] == [["parameters"]]


@pytest.mark.parametrize("name", TINY)
def test_a_notebook_holds_no_outputs(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    for cell in read(path).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert path.stat().st_size < 30_000


@pytest.mark.parametrize(
    ("tools", "extra"),
    [((), ""), (("nvidia-smi",), "[cuda]"), (("libtpu",), "[tpu]")],
    ids=["cpu", "gpu", "tpu"],
)
def test_the_first_cell_installs_on_colab_and_nowhere_else(
    tools: tuple[str, ...], extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    firsts = {next(c.source for c in read(FOLDER / f"{n}.py").cells if c.cell_type == "code")
              for n in TINY}  # fmt: skip
    (first,) = firsts  # the same in all
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda args, check: commands.append([*map(str, args)]))
    monkeypatch.setattr("shutil.which", lambda tool: tool if tool in tools else None)
    monkeypatch.setattr("importlib.util.find_spec", lambda tool: tool if tool in tools else None)

    monkeypatch.chdir(FOLDER)
    exec(first, {})
    assert pathlib.Path.cwd() == FOLDER.parents[1]
    assert commands == []

    clone = tmp_path / "cd4lm_jax"
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    on_colab = first.replace("/content/cd4lm_jax", str(clone))
    with pytest.raises(StopIteration):  # nothing was really cloned
        exec(on_colab, {})
    clone_it, install = commands
    assert clone_it[:2] == ["git", "clone"]
    assert clone_it[-1] == str(clone)
    assert install == [sys.executable, "-m", "pip", "install", "--quiet", f"{clone}{extra}"]

    commands.clear()  # the cell again, as after a restart
    clone.mkdir()
    (clone / "pyproject.toml").touch()
    exec(on_colab, {})
    assert commands == []
    assert pathlib.Path.cwd() == clone


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_notebook_runs(name: str, tmp_path: pathlib.Path) -> None:
    tiny = TINY[name]
    if "OUTPUT = " in (FOLDER / f"{name}.py").read_text():
        tiny = tiny | {"OUTPUT": str(tmp_path / "run")}
    done = papermill.execute_notebook(
        FOLDER / f"{name}.ipynb",
        tmp_path / "done.ipynb",
        parameters=tiny,
        cwd=FOLDER,  # where Jupyter starts
        kernel_name="python3",
        progress_bar=False,
    )
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    kinds = []
    for output in outputs:
        data = output.get("data", {})
        printed += data.get("text/plain", "")
        if "<iframe" in data.get("text/html", ""):
            kinds.append("iframe")
        elif "image/png" in data:
            kinds.append("image/png")
    expected, words = SHOWN[name]
    assert kinds == expected
    assert [word for word in words if word not in printed] == []
    assert "Warning" not in printed
