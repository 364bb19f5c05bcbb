from __future__ import annotations

import base64
import gzip
import json
import pathlib
from typing import Any

import pytest

from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.evaluation.report import problems
from tests.evaluation.runs.records import write

RULE, TAIL = int(Reason.RULE), int(Reason.TAIL)


def record(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "prompt": f"How many {name}?",
        "reference": "7",
        "output": "#### 7",
        "correct": True,
        "nfe": 2,
        "length": 2,
        "trajectory": {
            "tokens": [5, 9, 1, 1, 1],
            "committed_at": [1, 2, 2, 0, 0],
            "confidence": [0.9, 0.5004, 0.7, 0.0, 0.0],
            "reason": [RULE, RULE, RULE, TAIL, TAIL],
        },
    } | changes


def text(token: int) -> str:
    return {1: "<|endoftext|>", 5: "####", 9: " 7\n"}[token]


def unpacked(packed: problems.Packed) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed.data)))
    return data


@pytest.fixture
def runs(tmp_path: pathlib.Path) -> dict[str, pathlib.Path]:
    """Three runs of two problems."""
    wrong = record("b", correct=False, output="#### 8", nfe=3)
    return {
        "slow": write(tmp_path / "slow.jsonl", [record("a"), record("b")]),
        "fast": write(tmp_path / "fast.jsonl", [record("a", output="7 #### 7"), wrong]),
        "other": write(tmp_path / "other.jsonl", [record("a"), wrong]),
    }


def test_holds_what_the_records_hold(runs: dict[str, pathlib.Path]) -> None:
    packed = problems.pack(runs, text=text, shown="fast", beside="slow")
    data = unpacked(packed)
    assert (packed.problems, packed.runs) == (2, ["slow", "fast", "other"])
    assert data["problems"] == {
        "id": ["a", "b"],
        "prompt": ["How many a?", "How many b?"],
        "reference": ["7", "7"],
    }
    assert (data["runs"][data["shown"]]["name"], data["runs"][data["beside"]]["name"]) == (
        "fast",
        "slow",
    )
    fast = data["runs"][1]
    assert fast["output"] == ["7 #### 7", "#### 8"]
    assert (fast["correct"], fast["nfe"], fast["length"]) == ([True, False], [2, 3], [2, 2])
    assert fast["confidence"] == [0.7, 0.7]  # the mean of the answer's two tokens, its end left out


def test_decodes_lose_only_the_tail_and_the_fourth_decimal(runs: dict[str, pathlib.Path]) -> None:
    data = unpacked(problems.pack(runs, text=text, shown="fast"))
    decode = data["runs"][1]["replays"][0]
    assert [data["texts"][token] for token in decode["tokens"]] == [
        ["####", 0, 0],
        [" 7\u21b5", 0, 1],
        ["EOS", 1, 0],
    ]
    assert decode["committed_at"] == [1, 2, 2]
    assert decode["confidence"] == [0.9, 0.5, 0.7]
    assert decode["tail"] == 2
    assert [data["facts"]["reasons"][why]["name"] for why in decode["reason"]] == ["RULE"] * 3


def test_the_same_records_give_the_same_bytes(runs: dict[str, pathlib.Path]) -> None:
    first, second = (problems.pack(runs, text=text, shown="fast") for _ in range(2))
    assert first.data == second.data


def test_beyond_the_budget_the_two_that_are_shown_keep_their_decodes(
    runs: dict[str, pathlib.Path],
) -> None:
    none = problems.pack(runs, text=text, shown="other", beside="slow", budget=5)
    assert none.replayed == ["slow", "other"]
    assert ["replays" in run for run in unpacked(none)["runs"]] == [True, False, True]
    assert all("output" in run for run in unpacked(none)["runs"])
    # Two problems of three positions each.
    assert problems.pack(runs, text=text, shown="other", budget=6).replayed == ["slow", "other"]
    assert problems.pack(runs, text=text, shown="other", budget=12).replayed == list(runs)


def test_an_empty_answer_has_the_confidence_of_its_end(tmp_path: pathlib.Path) -> None:
    trajectory = {"tokens": [1], "committed_at": [1], "confidence": [0.25], "reason": [RULE]}
    path = write(tmp_path / "p.jsonl", [record("a", length=0, trajectory=trajectory)])
    data = unpacked(problems.pack({"run": path}, text=text, shown="run"))
    assert data["runs"][0]["confidence"] == [0.25]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "holds no problem"),
        ("{", r"broken\.jsonl, line 1 holds no problem of an evaluation \(Expecting"),
        (json.dumps({"id": "a"}), "line 1 holds no problem .*it lacks prompt, reference"),
        (
            json.dumps(record("a", trajectory=record("a")["trajectory"] | {"reason": [1]})),
            r"line 1 .*expected records of one length, got \[1, 5\]",
        ),
        (json.dumps(record("other")), "other problems, or in another order"),
    ],
)
def test_says_what_is_wrong(
    lines: str, message: str, runs: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(lines and lines + "\n")
    with pytest.raises(ValueError, match=message):
        problems.pack({"slow": runs["slow"], "broken": path}, text=text, shown="slow")


def test_no_run_is_an_error() -> None:
    with pytest.raises(ValueError, match="got no run"):
        problems.pack({}, text=text, shown="a")
