from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import re
from typing import Any

import numpy as np
import pytest

import cd4lm_jax as cd
from cd4lm_jax.data.gsm_mini.generate import generate
from cd4lm_jax.evaluation.judges import numbers
from cd4lm_jax.evaluation.runs import run as runs
from cd4lm_jax.evaluation.sweep import SweepConfig, sweep
from tests import exported

pytestmark = pytest.mark.slow

PROBLEMS = list(generate("test", 6))
NAMES = [
    "teacher fixed:1",
    "teacher fixed:2",
    "student fixed:4",
    "teacher confidence:0.5",
    "teacher confidence:0.9",
    "student confidence:0.5",
    "student confidence:0.9",
]
NUMBERS = {"accuracy", "nfe", "tpf", "canvas_tpf", "tps", "speedup", "problems"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    folder = tmp_path_factory.mktemp("sweep")
    source = folder / "problems.jsonl"
    lines = [json.dumps({"question": p.question, "answer": p.answer}) for p in PROBLEMS]
    source.write_text("\n".join(lines))
    return SweepConfig(
        output=str(folder / "run"),
        teacher=exported.export(folder / "teacher", seed=1),
        student=exported.export(folder / "student", seed=2),
        source=str(source),
        problems=6,
        selection_problems=6,
        timing_problems=4,
        timing_turns=3,
        thresholds=(0.5, 0.9),
        teacher_tokens=(1, 2),
        decode=cd.DecodeConfig(gen_length=16, block_length=8, batch_size=6),
    )


def is_a_sentence(text: str) -> bool:
    return text[0].isalpha() and text.endswith(".") and " " in text and "nan" not in text


def test_compares_teacher_and_student(config: SweepConfig) -> None:
    summary = sweep(config)
    folder = pathlib.Path(config.output)
    assert json.loads((folder / "summary.json").read_text()) == summary
    rows = summary["rows"]
    assert [row["name"] for row in rows] == NAMES
    for row in rows:
        assert set(row) == {"name", "model", "rule", "accuracy_interval"} | NUMBERS
        assert row["name"] == f"{row['model']} {row['rule']}"
        assert all(math.isfinite(row[name]) for name in NUMBERS)
        assert row["problems"] == 6
        assert row["canvas_tpf"] >= row["tpf"]
    # One, two and four tokens a pass of 16, every row to its end.
    assert [row["nfe"] for row in rows[:3]] == [16, 8, 4]
    assert rows[0]["speedup"] == 1
    assert all(row["nfe"] <= 16 for row in rows)
    assert all(row["accuracy"] == 0 for row in rows)  # the models are random

    # All are equally wrong, so the fastest threshold it is.
    assert summary["chosen"] == "student confidence:0.5"
    assert len(summary["notes"]) == 4
    assert all(map(is_a_sentence, summary["notes"]))
    assert summary["notes"][0].startswith("student confidence:0.5 was chosen on 6 validation ")
    timed = re.fullmatch(
        r"Timed in turn with teacher fixed:1 on 4 problems, student confidence:0.5 is "
        r"([\d.]+)× as fast \[([\d.]+), ([\d.]+)\] \(median and range of 3 turns\).",
        summary["notes"][2],
    )
    assert timed, summary["notes"]
    ratio, low, high = map(float, timed.groups())
    assert 0 < low <= ratio <= high
    assert {name: summary[name] for name in ("batch_size", "gen_length", "block_length")} == {
        "batch_size": 6,
        "gen_length": 16,
        "block_length": 8,
    }
    assert summary["source"] == config.source
    assert summary["device"].startswith("1 x ")

    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "training.png").exists()  # no run folder was named
    page = (folder / "report.html").read_text()
    assert f"{len(PROBLEMS)} problems" in page
    assert all(name in page for name in ("teacher fixed:1", "student confidence:0.5"))
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "config.json",
        "environment.json",
        "pareto.png",
        "report.html",
        "runs",
        "selection",
        "summary.json",
    ]
    assert {path.name for path in (folder / "runs").iterdir()} == set(NAMES)
    assert 0 < summary["overhead"]["decoding_share"] < 1


def test_another_student_stands_beside_it(config: SweepConfig, tmp_path: pathlib.Path) -> None:
    both = dataclasses.replace(config, best=config.teacher, output=str(tmp_path))
    summary = sweep(both)
    rows = {row["name"]: row for row in summary["rows"]}
    after = {"student fixed:4": ["best fixed:4"]}
    expected = [name for first in NAMES for name in (first, *after.get(first, []))]
    assert list(rows) == [*expected, "best confidence:0.5", "best confidence:0.9"]
    for setting in ("confidence:0.5", "confidence:0.9"):
        assert rows[f"best {setting}"]["nfe"] == rows[f"teacher {setting}"]["nfe"]
    starts = [note.partition(" was chosen")[0] for note in summary["notes"][::2]]
    assert starts[:2] == ["student confidence:0.5", "best confidence:0.5"]
    # All are equally wrong, so the faster of the two it is; they were timed on validation.
    fewest = min(starts[:2], key=lambda name: rows[name]["nfe"])
    assert summary["chosen"] == fewest
    assert len(summary["notes"]) == 7


def test_goes_on_without_comparing_times_of_two_starts(
    config: SweepConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(config)  # all there, or made by the test above
    folder = pathlib.Path(config.output)
    asked: list[int] = []

    def counted(
        model: cd.LanguageModel, prompts: list[str], config: cd.DecodeConfig, **settings: Any
    ) -> cd.Decoded:
        asked.append(len(prompts))
        return cd.decode(model, prompts, config, **settings)

    monkeypatch.setattr(runs, "decode", counted)
    monkeypatch.setattr(runs, "PROCESS", "of the second start")
    whole = sweep(config)
    assert asked == []
    assert "overhead" not in whole
    assert whole["notes"][-1].startswith("60 of 60 answers were there from an earlier start ")

    # As a kill leaves it: the baseline's time is not known, nor any speed-up over it.
    baseline = folder / "runs" / "teacher fixed:1"
    lines = (baseline / "problems.jsonl").read_bytes()
    (baseline / "problems.jsonl").write_bytes(lines[:-1])
    record = json.loads((baseline / "run.json").read_text())
    del record["time"]
    (baseline / "run.json").write_text(json.dumps(record))
    smaller = dataclasses.replace(config, chunk=4)
    with pytest.raises(ValueError, match=r"other settings \(chunk differ\)"):
        sweep(smaller)
    again = sweep(config)
    assert asked == [6, *[4] * 6]  # then what is timed in turn
    assert (baseline / "problems.jsonl").read_bytes() == lines
    # It took one process, but another one than the others did.
    assert again["rows"][0]["speedup"] == 1
    for before, now in zip(whole["rows"][1:], again["rows"][1:], strict=True):
        assert now == {name: value for name, value in before.items() if name != "speedup"}
    assert "the speed" in whole["notes"][0]
    assert "the speed" not in again["notes"][0]


def test_says_so_when_no_rule_reaches_the_teacher(
    config: SweepConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    scored: list[int] = []

    def score(outputs: list[str], answers: list[str]) -> np.ndarray:
        if len(outputs) > 1:  # not the check of a reference
            scored.append(len(outputs))
        return np.full(len(outputs), len(scored) == 1)  # the teacher on validation comes first

    monkeypatch.setattr(numbers, "score", score)
    summary = sweep(dataclasses.replace(config, output=str(tmp_path)))
    assert scored == [6] * (3 + len(NAMES))
    assert summary["chosen"] is None
    assert summary["notes"] == [
        "No rule of student reached the fixed-step teacher's accuracy on the 6 validation problems "
        "that rules are chosen on.",
        summary["notes"][-1],
    ]
    assert summary["notes"][-1].startswith("Fixed-step runs fill")
    assert (tmp_path / "report.html").is_file()


def test_a_chosen_rule_that_loses_accuracy_on_test_is_said_to(
    config: SweepConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    scored: list[int] = []

    def score(outputs: list[str], answers: list[str]) -> np.ndarray:
        if len(outputs) > 1:  # not the check of a reference
            scored.append(len(outputs))
        # All are right on validation, where rules are chosen; the teacher alone is on test.
        return np.full(len(outputs), len(scored) <= 4)

    monkeypatch.setattr(numbers, "score", score)
    summary = sweep(dataclasses.replace(config, output=str(tmp_path)))
    note = summary["notes"][0]
    assert "On the test problems it has 0.0% against 100.0%" in note
    assert " student confidence:0.5 loses 100.0 points of accuracy against teacher fixed:1 " in note
    assert note.endswith(": more than chance alone (McNemar p = 0.031).")
    assert "Right: the final number is exactly" in (tmp_path / "report.html").read_text()


def test_wants_no_more_problems_than_there_are(config: SweepConfig, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"problems.jsonl test has 6 problems, 7 were asked for"):
        sweep(dataclasses.replace(config, problems=7, output=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tokens", [(), (2, 1)])
def test_the_baseline_is_one_token_a_pass(config: SweepConfig, tokens: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"teacher_tokens=.* must start with 1: speed-up is "):
        dataclasses.replace(config, teacher_tokens=tokens)
