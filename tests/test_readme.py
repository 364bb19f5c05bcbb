"""What README.md shows: its commands have a place in the walk, its Python block runs as it is."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WALK = ROOT / "tests" / "readme_walk.sh"


def plan(file: pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", WALK, "--list", file], capture_output=True, text=True)


def test_the_walk_knows_what_to_do_with_every_command() -> None:
    done = plan(ROOT / "README.md")
    assert done.returncode == 0, done.stdout + done.stderr
    planned = [line.split("\t") for line in done.stdout.splitlines()]
    assert {kind for kind, *_ in planned} == {"walked", "left out"}
    assert all(reason.strip() for *_, reason in planned)

    # Found in another way than the walk's: what begins like a command, wherever it stands.
    told = {re.sub(r" +#.*", "", command) for _, command, _ in planned}
    text = re.sub(r"\\?\n *", " ", re.sub(r"#.*", "", README))
    begun = set(re.findall(r"(?<![\w/])(?:python -m \w+(?:\.\w+)*|make \w+(?=`| {2,}))", text))
    assert len(begun) > 8
    for command in begun:
        assert any(line.startswith(command) for line in told), command
    assert "python api.py" in told


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


@pytest.mark.slow
def test_the_python_block_runs_as_it_stands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(ROOT)
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "#### 4\n" in printed
    assert re.search(r"^pass (\d+) of \1, ", printed, re.MULTILINE)  # out.play()
