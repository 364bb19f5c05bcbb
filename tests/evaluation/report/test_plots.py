from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from cd4lm_jax.evaluation.report import plots
from cd4lm_jax.evaluation.report.labels import Label, place, place_right


def row(model: str, rule: str, accuracy: float | None, nfe: float | None) -> dict[str, Any]:
    name = f"{model} {rule}"
    return {"name": name, "model": model, "rule": rule, "accuracy": accuracy, "nfe": nfe}


ROWS = [
    row("teacher", "fixed:1", 0.97, 64.0),
    row("teacher", "fixed:4", 0.80, 16.0),
    row("teacher", "confidence:0.9", 0.95, 9.0) | {"accuracy_interval": [0.93, 0.97]},
    row("student", "confidence:0.9", 0.97, 5.0) | {"speedup": 12.0},
]


def ink(png: bytes) -> float:
    """Share of pixels that are not paper."""
    image = matplotlib.image.imread(io.BytesIO(png), format="png")
    return float((np.abs(image - image[0, 0]).max(axis=-1) > 0.02).mean())


def test_the_pareto_plot_is_drawn_and_deterministic() -> None:
    png = plots.pareto_png(ROWS, chosen="student confidence:0.9")
    assert ink(png) > 0.005
    assert png == plots.pareto_png(ROWS[::-1], chosen="student confidence:0.9")
    assert png != plots.pareto_png(ROWS)
    assert png != plots.pareto_png(ROWS, chosen="student confidence:0.9", theme=plots.DARK)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row("teacher", "fixed:1", 0.5, 64.0)],
        [row("teacher", "fixed:1", 1.0, 8.0), row("teacher", "fixed:2", 0.0, 8.0)],
        [row("teacher", "fixed:1", None, None), *ROWS],
        [row("$x_{", "entropy:$^{", 0.5, 3.0), row("b", "factor", 0.6, 4.0), *ROWS],
    ],
)
def test_the_pareto_plot_takes_any_rows(rows: list[dict[str, Any]]) -> None:
    assert plots.pareto_png(rows).startswith(b"\x89PNG")


def test_points_that_lie_on_one_another_share_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Label] = []
    monkeypatch.setattr(plots, "place", lambda axes, labels, paper: drawn.extend(labels))
    close = [row("best", f"confidence:{at}", 0.99, 2 + at / 100) for at in (0.5, 0.7, 0.9)]
    plots.pareto_png([*ROWS, *close, row("best", "confidence:0.98", 0.99, 3.0)])
    settings = sorted(label.text for label in drawn if not label.bold)
    assert settings == ["0.5 to 0.9", "0.9", "0.9", "0.98", "1", "4"]


def test_training_curves_take_gaps_and_resumed_steps() -> None:
    curves: list[dict[str, Any]] = [
        {"step": step, "loss": 5 / step, "kl": 2 / step, "lambda": 0.1, "learning_rate": 1e-4}
        for step in range(1, 200)
    ]
    curves += [{"step": 100, "eval/loss": 0.1}, {"step": 200, "eval/loss": float("nan")}]
    png = plots.training_png(curves)
    assert ink(png) > 0.005
    # A resumed run wrote the same steps again: the later row counts.
    stale = [{"step": step, "loss": 99.0, "kl": None} for step in range(150, 180)]
    assert plots.training_png(stale + curves) == png
    assert plots.training_png([{"step": 1, "note": "nothing measured"}]).startswith(b"\x89PNG")


def test_smoothing_keeps_a_constant_and_short_curves() -> None:
    np.testing.assert_allclose(plots._smoothed(np.full(400, 3.0)), 3.0)
    short = np.arange(20.0)
    assert plots._smoothed(short) is short


def test_labels_keep_clear_of_each_other() -> None:
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1])
    labels = [Label(text=f"label {i}", x=0.5, y=0.5, colour="black") for i in range(8)]
    place(axes, labels, "white")
    boxes = [t.get_window_extent() for t in axes.texts]
    assert len(boxes) == 8
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_labels_on_the_right_keep_their_order_and_distance() -> None:
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    heights = [0.5, 0.1, 0.501, 0.9]
    axes.plot([0] * 4, heights)
    labels = [Label(text=str(y), x=0, y=y, colour="black") for y in heights]
    place_right(axes, labels, "white")
    drawn = [t for t in axes.texts if isinstance(t, Annotation)]
    figure.draw_without_rendering()
    assert [t.get_text() for t in drawn] == ["0.1", "0.5", "0.501", "0.9"]
    boxes = [t.get_window_extent() for t in drawn]
    assert all(low.y1 <= high.y0 for low, high in itertools.pairwise(boxes))


def test_what_is_far_below_the_best_is_named_at_the_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[Label] = []
    bottoms: list[float] = []

    def kept(axes: Axes, labels: Sequence[Label], paper: str) -> None:
        placed.extend(labels)
        bottoms.append(axes.get_ylim()[0])

    monkeypatch.setattr(plots, "place", kept)
    rows = [
        row("teacher", f"confidence:{at}", accuracy, 10 * at)
        for at, accuracy in ((0.5, 0.364), (0.6, 0.9), (0.9, 0.99))
    ]
    plots.pareto_png(rows)
    texts = {label.text: label.y for label in placed}
    assert bottoms == [pytest.approx(77.0)]
    assert texts["0.5: 36.4 %"] == bottoms[0]
    assert texts["teacher, confidence"] == 90.0
    assert {"0.6", "0.9"} <= set(texts)

    # Accuracies that are near one another are all shown.
    placed.clear()
    plots.pareto_png([point | {"accuracy": 0.9 + 0.01 * at} for at, point in enumerate(rows)])
    assert not [label for label in placed if ":" in label.text]
