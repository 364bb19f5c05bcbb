"""What README.md shows: its commands have a place in the walk, its Python blocks run."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest

import cd4lm_jax as cd

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WALK = ROOT / "tests" / "readme_walk.sh"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def plan(file: pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", WALK, "--list", file], capture_output=True, text=True)


def test_the_walk_knows_what_to_do_with_every_command() -> None:
    done = plan(ROOT / "README.md")
    assert done.returncode == 0, done.stdout + done.stderr
    planned = [line.split("\t") for line in done.stdout.splitlines()]
    assert {kind for kind, *_ in planned} == {"walked", "left out"}
    assert all(reason.strip() for *_, reason in planned)

    # Found in another way than the walk's: what begins like a command, wherever it stands.
    commands = {re.sub(r" +#.*", "", command) for _, command, _ in planned}
    text = re.sub(r"\\?\n *", " ", re.sub(r"#.*", "", README))
    form = r"(?<![\w/])(?:python -m \w+(?:\.\w+)*|cd4lm [a-z]+(?= -)|make \w+(?=`| {2,}))"
    begun = set(re.findall(form, text))
    assert len(begun) >= 5
    for command in begun:
        assert any(line.startswith(command) for line in commands), command
    assert {f"python block-{number}.py" for number in range(1, len(BLOCKS) + 1)} <= commands


def test_shell_scripts_are_sound() -> None:
    scripts = [ROOT / ".ci" / "run", *(ROOT / "tests").rglob("*.sh")]
    done = subprocess.run(
        [pathlib.Path(sys.executable).with_name("shellcheck"), *scripts],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "added", ["```sh\nmake coffee\n```", "Say `python -m launch.nothing\n--at=all` to it."]
)
def test_a_command_that_nobody_thought_of_is_an_error(added: str, tmp_path: pathlib.Path) -> None:
    changed = tmp_path / "README.md"
    changed.write_text(f"{README}\n{added}\n")
    done = plan(changed)
    assert done.returncode == 1
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("unknown"))
    assert re.sub(r"\W+", " ", line.split("\t")[1]) in re.sub(r"\W+", " ", added)


def run(block: str, **changes: str) -> dict[str, Any]:
    """Runs a block in which each text of `changes` occurs once and is replaced."""
    for old, new in changes.items():
        assert block.count(old) == 1
        block = block.replace(old, new)
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    return names


@pytest.mark.slow
def test_the_block_for_a_llada_folder_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """On the bundled teacher, which has fewer positions."""
    teacher = {"checkpoints/LLaDA-8B-Instruct": cd.bundled.teacher(), "length=256": "length=64"}
    run(BLOCKS[0], **teacher)
    assert re.search(r"#### 8 \d+$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
def test_the_block_without_a_model_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    run(BLOCKS[1])
    printed = capsys.readouterr().out
    assert "#### 4\n" in printed
    assert re.search(r"^pass (\d+) of \1, ", printed, re.MULTILINE)  # out.play()


@pytest.mark.slow
def test_the_block_that_distils_runs(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as few steps as the recipe's warm-up."""
    monkeypatch.chdir(tmp_path)
    names = run(BLOCKS[2], **{"steps=400": "steps=20, eval_every=20"})
    assert names["result"].steps == 20
    assert names["student"].tokenizer is not None


def test_the_page_is_short_and_its_contents_are_its_sections() -> None:
    assert len(README.split()) <= 900
    sections = re.findall(r"^## (.+)$", README, re.MULTILINE)
    listed = re.findall(r"^\* \[(.+)\]\(#", README, re.MULTILINE)
    assert ["Contents", *listed] == sections
