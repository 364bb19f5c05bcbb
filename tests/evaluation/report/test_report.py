from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.evaluation.report import plots, report
from cd4lm_jax.runtime import files
from tests import pages
from tests.pages import EVIL, Page

SUMMARY: dict[str, Any] = {
    "rows": [
        {
            "name": name,
            "model": model,
            "rule": rule,
            "accuracy": 0.966,
            "accuracy_interval": [0.95, 0.98],
            "nfe": nfe,
            "tpf": 26 / nfe,
            "canvas_tpf": 64 / nfe,
            "tps": 5000 / nfe,
            "speedup": 64 / nfe,
            "problems": 500,
        }
        for name, model, rule, nfe in (
            ("teacher, one a pass", "teacher", "fixed:1", 64.0),
            ("student, CAD", "student", "confidence:0.9", 5.0),
        )
    ],
    "chosen": "student, CAD",
    "notes": ["Thresholds were chosen on validation.", f"note {EVIL}"],
    "device": "CPU, 2 cores",
    "batch_size": 64,
}
CURVES = [{"step": step, "loss": 1 / step, "lambda": 0.5} for step in range(1, 5)]
RECORD = {
    "id": "1",
    "prompt": f"How many beads? {EVIL}",
    "reference": "7",
    "output": f"#### 7{EVIL}",
    "correct": True,
    "nfe": 2,
    "length": 2,
    "trajectory": {
        "tokens": [3, 4, 0],
        "committed_at": [1, 2, 0],
        "confidence": [0.99, 0.8, 0.0],
        "reason": [int(Reason.RULE), int(Reason.MINIMUM), int(Reason.TAIL)],
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("report") / "new"
    records = path.parent / "problems.jsonl"
    records.write_text(json.dumps(RECORD) + "\n")
    report.write_report(
        path,
        SUMMARY,
        CURVES,
        {"student, CAD": records},
        text=lambda token: EVIL,
        title=f"Title {EVIL}",
    )
    return path


@pytest.fixture(scope="module")
def page(folder: pathlib.Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_writes_two_pictures_and_a_page(folder: pathlib.Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "pareto.png",
        "report.html",
        "training.png",
    ]
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_is_well_formed(page: Page) -> None:
    assert page.open == []


def test_the_page_loads_nothing(folder: pathlib.Path) -> None:
    loaded = pages.loaded((folder / "report.html").read_text(encoding="utf-8"))
    assert len(loaded) == 5  # two pictures, light and dark, and the empty icon


def test_model_output_is_text_and_never_markup(page: Page) -> None:
    assert page.having("onload") == []
    assert any(EVIL in text for text in page.text if text.startswith("note "))


def test_only_our_own_script_may_run(folder: pathlib.Path) -> None:
    pages.only_our_script_may_run((folder / "report.html").read_text(encoding="utf-8"))


def test_the_table_and_the_headline_show_the_same_numbers(page: Page) -> None:
    assert page.text.count("12.8×") == 2
    assert page.text.count("96.6 %") == 1  # the tile
    assert page.text.count("96.6 % ") == 2  # the table, an interval follows
    assert "teacher 96.6 %" in page.text
    assert "teacher 64.0" in page.text
    assert any("CPU, 2 cores" in text and "64 problems a batch" in text for text in page.text)
    assert page.tags.count(("tr", {"class": "chosen"})) == 1


def test_a_bare_summary_is_enough(tmp_path: pathlib.Path) -> None:
    rows = [{"name": "a", "model": "teacher", "rule": "fixed:1"}]
    report.write_report(tmp_path, {"rows": rows})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pareto.png", "report.html"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert Page(text).open == []
    assert "Training" not in text
    assert "Pass by pass" not in text


def test_a_lone_surrogate_costs_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "pareto_png", lambda *_, **__: b"")
    report.write_report(tmp_path, SUMMARY, title="a\ud800b")
    assert "a?b" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_records_of_no_row_are_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="records of 'student, CAP', but no row has that name"):
        report.write_report(tmp_path, SUMMARY, records={"student, CAP": tmp_path / "none"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("summary", "message"),
    [
        ({}, 'no "rows"'),
        ({"rows": [{"name": "a", "model": "teacher"}]}, "row 0 lacks rule"),
        (SUMMARY | {"chosen": "student, CAP"}, "nearest is 'student, CAD'"),
    ],
)
def test_a_wrong_summary_writes_nothing(
    summary: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ValueError, match=message):
        report.write_report(tmp_path, summary, CURVES)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_earlier_page(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.html").write_text("earlier")
    monkeypatch.setattr(plots, "pareto_png", lambda *_, **__: b"")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_flush", full)
    with pytest.raises(OSError, match="No space left"):
        report.write_report(tmp_path, SUMMARY)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "earlier"
