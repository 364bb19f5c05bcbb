from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from absl.testing import flagsaver

from cd4lm_jax.commands import common, compare
from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.evaluation.runs.journal import Answers, Journal

Compare = Callable[..., str]


def run(
    folder: pathlib.Path,
    correct: Sequence[bool],
    *,
    ids: Sequence[str] | None = None,
    reference: str = "#### 1",
    nfe: int = 4,
) -> pathlib.Path:
    """A finished run with these answers right."""
    count = len(correct)
    names = [str(n) for n in range(count)] if ids is None else ids
    problems = [Problem(id=n, question="?", answer=reference, target=reference) for n in names]
    flat = np.ones((count, 2), np.int32)
    journal = Journal(folder, {}, total=count, chunk=count, environment={})
    trajectory = Trajectory(
        tokens=flat,
        committed_at=flat,
        confidence=flat.astype(np.float32),
        reason=flat,
        nfe=np.full(count, nfe),
        length=np.ones(count, np.int32),
    )
    journal.append(
        problems, Answers(outputs=[""] * count, correct=np.array(correct), trajectory=trajectory)
    )
    return folder


@pytest.fixture
def compared(capsys: pytest.CaptureFixture[str]) -> Compare:
    def call(a: pathlib.Path, b: pathlib.Path, *more: str, code: int = 0) -> str:
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
            common.run(compare.main, argv=["compare", f"--a={a}", f"--b={b}", *more])
        assert raised.value.code == code
        out, err = capsys.readouterr()
        if not code:
            return out
        assert (out, err.count("\n")) == ("", 1)
        return err.removeprefix("error: ")

    return call


def test_a_match_a_difference_and_neither(compared: Compare, tmp_path: pathlib.Path) -> None:
    right = np.arange(1000) < 900
    b = run(tmp_path / "b", right.tolist(), nfe=8)
    # In another order: problems are matched by their ids.
    order = np.random.default_rng(0).permutation(1000)
    same = run(
        tmp_path / "same", right[order].tolist(), ids=[str(n) for n in order.tolist()], nfe=2
    )
    said = compared(same, b)
    assert said.splitlines() == [
        f"a: 90.0% right (900 of 1,000), 2.0 passes a problem: {same}",
        f"b: 90.0% right (900 of 1,000), 8.0 passes a problem: {b}",
        "difference +0.0% [-0.4%, +0.4%]; right in the first alone 0, in the second alone 0; "
        "McNemar p = 1",
        "passes, a over b: 0.25 [0.25, 0.25]",
        "a matches b: no difference was found, and it is at most 0.37 points worse, less than the "
        "margin of 1.00 points.",
    ]
    worse = run(tmp_path / "worse", (right & (np.arange(1000) >= 60)).tolist())
    assert "a is worse than b: chance alone" in compared(worse, b)
    assert "a is worse than b, though by less than 20.00 points" in compared(
        worse, b, "--margin=0.2"
    )
    assert "a is better than b: chance alone" in compared(b, worse)
    flipped = right.copy()
    flipped[:10], flipped[900:910] = False, True
    said = compared(run(tmp_path / "flipped", flipped.tolist()), b, "--margin=0.005")
    assert "It stays open whether a matches b" in said


def test_an_evaluation_of_one_run_stands_for_it(compared: Compare, tmp_path: pathlib.Path) -> None:
    run(tmp_path / "a/runs/model confidence:0.9", [True, False])
    b = run(tmp_path / "b/runs/model fixed:1", [True, False])
    assert "a: 50.0% right (1 of 2)" in compared(tmp_path / "a", b)
    run(tmp_path / "b/runs/model confidence:0.5", [True, False])
    said = compared(tmp_path / "a", tmp_path / "b", code=2)
    assert "holds 2 runs; give one of them, as " in said
    assert said.endswith("NAME: 'model confidence:0.5', 'model fixed:1'\n")


def test_what_cannot_be_compared_is_one_line(compared: Compare, tmp_path: pathlib.Path) -> None:
    a = run(tmp_path / "a", [True, False])
    more = run(tmp_path / "more", [True] * 3)
    other = run(tmp_path / "other", [True, False], reference="#### 2")
    for pair in ((a, more), (more, a)):
        said = compared(*pair, code=2)
        assert said.startswith(f"not the same problems: 1 of 3 are in {more} alone, such as '2'; ")
    assert compared(a, other, code=2).startswith("not the same problems: '0' has other answers in ")
    assert compared(a, tmp_path, code=2).startswith(f"no run in {tmp_path}: run.json is missing")
    assert compared(a, a, "--margin=1.5", code=2).startswith("margin=1.5; give a share")
