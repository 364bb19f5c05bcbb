from __future__ import annotations

import pathlib

import pytest
from absl.testing import flagsaver

from cd4lm_jax.commands import common, frontier
from tests.evaluation.report.test_curves import PEERS, evaluation


def run(*arguments: str) -> int | str | None:
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
        common.run(frontier.main, argv=["frontier", *arguments])
    return raised.value.code


def test_overlays_evaluations_and_published_figures(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [evaluation(tmp_path / name, task="gsm8k") for name in ("block8", "block32")]
    peers = PEERS / "llada_8b_gsm8k.json"
    output = tmp_path / "out"
    given = [f"--runs={','.join(map(str, runs))}", f"--peers={peers}", f"--output={output}"]
    assert run(*given) == 0
    printed = capsys.readouterr().out
    for name in ("block8: student, confidence", "block32: teacher, fixed", "Fast-dLLM"):
        assert name in printed
    assert sorted(path.name for path in output.iterdir()) == ["frontier.html", "frontier.png"]


def test_evaluations_of_one_name_are_labelled_by_their_folders() -> None:
    assert frontier._labels(["runs/a"]) == [""]
    assert frontier._labels(["runs/a", "runs/b"]) == ["a", "b"]
    assert frontier._labels(["x/a", "y/a"]) == ["x/a", "y/a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output={tmp}/out"], "give --runs or --peers"),
        (["--runs={tmp}/none"], "give --output"),
        (["--runs={tmp}/none", "--output={tmp}/out"], "No such file"),
    ],
)
def test_fails_in_one_line_and_writes_nothing(
    arguments: list[str],
    message: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    out, err = capsys.readouterr()
    assert code != 0
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
