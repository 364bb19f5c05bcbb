"""The report's two pictures as PNG: accuracy against passes, and the training curves.

Drawn with matplotlib's object interface and the Agg canvas: no display, no global state, and the
same bytes for the same input.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cd4lm_jax.evaluation.report import rows as row_forms
from cd4lm_jax.evaluation.report.labels import Label, place, place_right
from cd4lm_jax.evaluation.report.table import percent, times

Rows = Sequence[Mapping[str, Any]]

PASSES = "forward passes a problem (log scale; fewer is faster)"

_DPI = 160
_TICKS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of a plot: the page's paper and ink, then one colour a model or curve."""

    paper: str
    ink: str
    faint: str
    grid: str
    colours: tuple[str, ...]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1c2128",
    faint="#656d76",
    grid="#e6e8eb",
    colours=("#64748b", "#0d7a6f", "#c2570c", "#7c3aed", "#be123c"),
)
DARK = Theme(
    paper="#161b22",
    ink="#e6edf3",
    faint="#9198a1",
    grid="#2b323b",
    colours=("#94a3b8", "#2dd4bf", "#fb923c", "#a78bfa", "#fb7185"),
)

_MARKER = 5.5  # points

# Where the accuracies of a table spread over more than the first, the picture shows the second
# below the best one: what is far below it would leave the part that is compared no room.
_SPREAD, _SHOWN = 30.0, 22.0  # points of accuracy
_MOST_LABELS = 4  # settings that are named along a line

# A fixed schedule and CAD look the same for every model: square and dashed, round and solid.
_STYLES = {"fixed": ("s", (0, (4, 2))), "confidence": ("o", "-")}
_OTHER_STYLES = (("^", (0, (1, 1.5))), ("D", (0, (5, 1, 1, 1))), ("v", (0, (8, 2))))


def pareto_png(rows: Rows, *, chosen: str | None = None, theme: Theme = LIGHT) -> bytes:
    """Accuracy against passes (log scale), a line for every model and rule, labelled in place.

    Args:
        rows: of the summary; those without accuracy or nfe are left out.
        chosen: name of the row to mark.
        theme: colours.
    """
    rows = row_forms.read(rows)
    colours = model_colours(row_forms.models(rows), theme)
    baseline = row_forms.baseline(rows)
    rows = [row for row in rows if row.get("accuracy") is not None and row.get("nfe")]
    series: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["nfe"]):
        series.setdefault((row["model"], row_forms.series(row)), []).append(row)
    rules = [rule for rule in sorted({rule for _, rule in series}) if rule not in _STYLES]
    styles = _STYLES | {r: _OTHER_STYLES[i % len(_OTHER_STYLES)] for i, r in enumerate(rules)}

    floor = _floor([100 * row["accuracy"] for row in rows])
    figure, (axes,) = _figure(theme, height=4.6, rows=1)
    labels: list[Label] = []
    for (model, rule), points in series.items():
        colour = colours[model]
        marker, line = styles[rule]
        x = [point["nfe"] for point in points]
        y = [100 * point["accuracy"] for point in points]
        for at, point in zip(x, points, strict=True):
            if bounds := point.get("accuracy_interval"):
                ends = [100 * bound for bound in bounds]
                axes.plot([at, at], ends, color=colour, alpha=0.3, lw=1.6, solid_capstyle="butt")
        axes.plot(x, y, color=colour, ls=line, marker=marker, ms=_MARKER, mec=theme.paper, mew=0.8)
        # The series' name first: it is placed before, hence nearer than, the settings.
        visible = [place for place in zip(x, y, strict=True) if place[1] >= floor]
        if visible:
            ends_at = visible[-1 if rule == "fixed" else 0]
            name = Label(text=f"{model}, {rule}", x=ends_at[0], y=ends_at[1], colour=colour)
            labels.insert(0, dataclasses.replace(name, bold=True))
    accuracy_over(axes, [row["nfe"] for row in rows])
    axes.set_ylim(bottom=max(floor, axes.get_ylim()[0]))
    for (model, _), points in series.items():
        shown = [point for point in points if 100 * point["accuracy"] >= floor]
        labels += _settings(axes, shown, colours[model])
        below = [point for point in points if 100 * point["accuracy"] < floor]
        labels += [_left_out(axes, point, floor, colours[model]) for point in below]
    axes.set_xlabel(PASSES)
    for row in rows:
        if row["name"] == chosen:
            labels.insert(0, _mark(axes, row, theme))
        if row is baseline:
            axes.axhline(100 * row["accuracy"], color=theme.faint, lw=0.9, ls=(0, (1, 2)), zorder=1)
    place(axes, labels, theme.paper)
    return png(figure)


def model_colours(models: Sequence[str], theme: Theme) -> dict[str, str]:
    """The colour of each model, in every picture of one evaluation the same."""
    return {name: theme.colours[at % len(theme.colours)] for at, name in enumerate(models)}


def training_png(curves: Rows, *, theme: Theme = LIGHT) -> bytes:
    """Training curves: the loss and its terms above, lambda and learning rate below.

    Args:
        curves: rows of metrics.jsonl; any key may be missing in any row. Of rows with the same step
            (a run that was resumed) the last counts.
        theme: colours.
    """
    figure, (losses, weight, rate) = _figure(theme, height=5.2, rows=2)
    total, kl, ce, evaluation = (theme.ink, *theme.colours[1:4])
    drawn: list[npt.NDArray[np.float64]] = []
    labels = []
    for key, text, colour in (
        ("loss", "total", total),
        ("kl", "KL", kl),
        ("ce", "CE", ce),
        ("eval/loss", "evaluation", evaluation),
    ):
        steps, values = _curve(curves, key)
        if not steps.size:
            continue
        smooth = values if key == "eval/loss" else _smoothed(values)
        if smooth is not values:
            losses.plot(steps, values, color=colour, lw=0.6, alpha=0.25)
        mark = "o" if key == "eval/loss" else None
        losses.plot(steps, smooth, color=colour, lw=1.6, marker=mark, ms=4, mec=theme.paper)
        drawn.append(smooth)
        labels.append(Label(text=text, x=steps[-1], y=smooth[-1], colour=colour, bold=True))
    if drawn:
        lowest, highest = (f(f(v) for v in drawn) for f in (min, max))
        if lowest > 0 and highest > 20 * lowest:
            losses.set_yscale("log")
    losses.margins(x=0.02, y=0.08)
    losses.set_ylabel("loss")
    place_right(losses, labels, theme.paper)
    for axes, key, text, colour in (
        (weight, "lambda", "lambda (weight of KL)", theme.colours[1]),
        (rate, "learning_rate", "learning rate", theme.colours[2]),
    ):
        axes.plot(*_curve(curves, key), color=colour, lw=1.6)
        axes.set_title(text, loc="left", fontsize=9, color=theme.ink)
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.02)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return png(figure)


def _figure(theme: Theme, *, height: float, rows: int) -> tuple[Figure, list[Axes]]:
    """A themed figure: one axes, or a wide one over two small ones."""
    figure = Figure(figsize=(7.6, height), facecolor=theme.paper)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        rows,
        2,
        height_ratios=[2, 1][:rows],
        hspace=0.28,
        wspace=0.25,
        left=0.085,
        right=0.985 if rows == 1 else 0.88,
        top=0.98,
        bottom=0.47 / height,
    )
    cells = [grid[0, :], *(grid[1, column] for column in range(2) if rows == 2)]
    axes = [figure.add_subplot(cell) for cell in cells]
    for ax in axes:
        dress(ax, theme)
    return figure, axes


def dress(axes: Axes, theme: Theme) -> None:
    """Gives axes the theme's colours, a grid and no frame."""
    axes.set_facecolor(theme.paper)
    axes.grid(color=theme.grid, lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.grid)
    axes.tick_params(colors=theme.faint, labelsize=8.5, length=0)
    axes.xaxis.label.set(color=theme.faint, size=9)
    axes.yaxis.label.set(color=theme.faint, size=9)


def accuracy_over(axes: Axes, values: Sequence[float]) -> None:
    """Accuracy in per cent over a log axis of values, ticked with about eight plain numbers."""
    axes.set_xscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.margins(y=0.12)
    axes.set_ylim(top=min(axes.get_ylim()[1], 104))
    axes.set_ylabel("accuracy")
    low, high = (min(values), max(values)) if values else (1.0, 1.0)
    low, high = low / 1.25, high * 1.35
    axes.set_xlim(low, high)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    if len(ticks) > 9:
        ticks = [tick for tick in ticks if math.log2(tick).is_integer()]
    if len(ticks) < 3:
        ticks = [float(f"{tick:.3g}") for tick in np.geomspace(low, high, 5)[1:-1]]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _floor(accuracies: Sequence[float]) -> float:
    """The lowest accuracy of the picture, in per cent."""
    if not accuracies or max(accuracies) - min(accuracies) <= _SPREAD:
        return -math.inf
    return max(accuracies) - _SHOWN


def _left_out(axes: Axes, row: Mapping[str, Any], floor: float, colour: str) -> Label:
    """An arrow at the lower edge for a point below it; returns the label that says how far."""
    axes.plot([row["nfe"]], [floor], marker=7, ms=_MARKER, color=colour, clip_on=False)
    text = f"{row_forms.setting(row)}: {percent(row['accuracy'])}"
    return Label(text=text, x=row["nfe"], y=floor, colour=colour, size=7.5)


def _settings(axes: Axes, points: Rows, colour: str) -> Iterator[Label]:
    """A label for some points of a line, the ends among them; those that touch share one."""
    if not points:
        return
    places = axes.transData.transform([(row["nfe"], 100 * row["accuracy"]) for row in points])
    gaps = np.hypot(*np.diff(places, axis=0).T)
    apart = np.flatnonzero(gaps > _MARKER * axes.figure.dpi / 72) + 1
    groups = np.split(np.arange(len(points)), apart)
    named = np.unique(np.linspace(0, len(groups) - 1, _MOST_LABELS).round().astype(int))
    for group in (groups[at] for at in named):
        ends = dict.fromkeys(row_forms.setting(points[at]) for at in group[[0, -1]])
        row = points[group[len(group) // 2]]
        yield Label(
            text=" to ".join(ends), x=row["nfe"], y=100 * row["accuracy"], colour=colour, size=7.5
        )


def _mark(axes: Axes, row: Mapping[str, Any], theme: Theme) -> Label:
    """Rings the chosen point; returns the label that says what it reached."""
    x, y = row["nfe"], 100 * row["accuracy"]
    axes.plot([x], [y], "o", ms=14, mfc="none", mec=theme.ink, mew=1.4)
    faster = f", {times(row['speedup'])} faster" if row.get("speedup") else ""
    text = f"chosen: {percent(row['accuracy'])}{faster}"
    return Label(text=text, x=x, y=y, colour=theme.ink, bold=True, clearance=11)


def _curve(rows: Rows, key: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Steps and values of a metric, by rising step, without gaps and without NaN."""
    values = {
        float(row["step"]): float(row[key])
        for row in rows
        if row.get(key) is not None and row.get("step") is not None and math.isfinite(row[key])
    }
    steps = sorted(values)
    return np.array(steps), np.array([values[step] for step in steps])


def _smoothed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A centred running mean over a fortieth of the curve; short curves as they are."""
    width = values.size // 40
    if width < 2:
        return values
    window = np.ones(2 * (width // 2) + 1)
    weights = np.convolve(np.ones_like(values), window, "same")
    return np.asarray(np.convolve(values, window, "same") / weights)


def png(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=_DPI, format="png", metadata={"Software": None})
    return buffer.getvalue()
