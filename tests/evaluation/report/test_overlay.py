from __future__ import annotations

import io
import pathlib
import re

import matplotlib.image
import pytest
from rich.console import Console

from cd4lm_jax.evaluation.report import curves, overlay, plots
from tests import pages
from tests.evaluation.report.test_curves import PEERS, evaluation
from tests.pages import EVIL, Page


@pytest.fixture
def both(tmp_path: pathlib.Path) -> list[curves.Curve]:
    """An evaluation of ours, by the task of the published figures, and these."""
    ours = curves.read_evaluation(evaluation(tmp_path / "ours", task="gsm8k"))
    return [*curves.read_peers(PEERS / "llada_8b_gsm8k.json"), *ours]


def printed(found: list[curves.Curve]) -> str:
    console = Console(file=io.StringIO(), width=140)
    overlay.print_frontier(found, console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_published_figures_stand_under_the_measured_ones(both: list[curves.Curve]) -> None:
    rows = overlay.rows(both, "gsm8k")
    assert [row.published for row in rows] == sorted(row.published for row in rows)
    names = [row.cells[0] for row in rows if row.cells[0]]
    assert names[:3] == ["teacher, fixed", "student, confidence", "LLaDA"]
    text = printed(both)
    assert text.index("student, confidence") < text.index("published by others")
    assert text.index("published by others") < text.index("d3LLM")


def test_marks_are_by_kind_and_by_count(both: list[curves.Curve]) -> None:
    rows = {
        (row.published, row.cells[1], row.cells[2][:4]): row for row in overlay.rows(both, "gsm8k")
    }
    assert rows[False, "0.9", "88.0"].marked == ["TPF", "canvas TPF", "NFE"]
    # Of the figures in passes 76.1 % in 30 beats the others; those by TPF stand for themselves.
    assert rows[True, "one a pass", "75.7"].marked == []
    assert rows[True, "", "76.1"].marked == ["NFE"]
    assert rows[True, "one a pass", "74.9"].marked == ["TPF"]


def test_what_was_not_counted_is_a_dash(both: list[curves.Curve]) -> None:
    line = next(line for line in printed(both).splitlines() if "its own paper" in line)
    assert re.findall(r"\S+", line.split("paper")[1]) == ["76.10", "%", "–", "–", "30.00", "◆", "–"]


def test_each_way_of_counting_has_axes_of_its_own(both: list[curves.Curve]) -> None:
    height = {
        name: matplotlib.image.imread(io.BytesIO(overlay.frontier_png(found)), format="png").shape[
            0
        ]
        for name, found in (
            ("tpf and passes", both),
            ("tpf alone", [one for one in both if one.source and not one.points[0].nfe]),
        )
    }
    assert height["tpf and passes"] == 2 * height["tpf alone"]


def test_the_picture_is_the_same_for_the_same_curves(both: list[curves.Curve]) -> None:
    assert overlay.frontier_png(both) == overlay.frontier_png(both)
    assert overlay.frontier_png(both) != overlay.frontier_png(both, theme=plots.DARK)


def test_the_page_is_self_contained_and_takes_any_name(
    both: list[curves.Curve], tmp_path: pathlib.Path
) -> None:
    point = curves.CurvePoint(label="$x_{", accuracy=0.5, tpf=2.0, canvas_tpf=3.0)
    evil = curves.Curve(
        name=EVIL, task="$^{", setting=EVIL, points=(point,), source=f"arXiv {EVIL}"
    )
    overlay.write(tmp_path / "new", [*both, evil])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "frontier.html",
        "frontier.png",
    ]
    text = (tmp_path / "new" / "frontier.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert len(pages.loaded(text)) == 3  # a picture, light and dark, and the empty icon
    pages.only_our_script_may_run(text)
    assert "gsm8k" in page.text
    assert "$^{" in page.text
    assert any("dParallel, arXiv 2509.26488" in piece for piece in page.text)


def test_no_curve_writes_nothing(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="got no curve"):
        overlay.write(tmp_path / "new", [])
    assert list(tmp_path.iterdir()) == []
