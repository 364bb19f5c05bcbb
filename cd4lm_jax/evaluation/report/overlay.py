"""Several curves of accuracy against speed, one over another: table, picture and page.

What was measured here is filled, in one colour a model; what others published is hollow and grey;
each way of counting has separate axes.
"""

from __future__ import annotations

import base64
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cd4lm_jax.evaluation.report import plots, table
from cd4lm_jax.evaluation.report.curves import COUNTS, Curve, aup, best, unbeaten
from cd4lm_jax.evaluation.report.labels import Label, place
from cd4lm_jax.replay import page
from cd4lm_jax.runtime import files

TEMPLATES = pathlib.Path(__file__).parent / "templates"
MARK = "\u25c6"

_AXES = {
    "tpf": "tokens before the end a forward pass (TPF, log scale; more is faster)",
    "canvas_tpf": "generated positions a forward pass (canvas TPF, log scale; more is faster)",
    "nfe": plots.PASSES,
}
COUNTED = ("TPF", "canvas TPF", "NFE")  # the headings of COUNTS
_ACCURACY = next(column for column in table.COLUMNS if column.key == "accuracy")
HEADINGS = ("curve", "setting", "accuracy", *COUNTED, "AUP")
_LINES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))  # of one model's curves in turn
_HOLLOW = ("o", "s", "^", "D", "v", "P", "X")


def write(folder: str | os.PathLike[str], curves: Sequence[Curve]) -> None:
    """Writes frontier.png and frontier.html; both are made before either is written.

    Raises:
        ValueError: no curve.
    """
    if not curves:
        raise ValueError("frontier: got no curve, expected at least one")
    light, dark = (frontier_png(curves, theme=theme) for theme in (plots.LIGHT, plots.DARK))
    origins: dict[tuple[str | None, str], list[str]] = {}
    for curve in curves:
        origins.setdefault((curve.source, curve.setting), []).append(curve.name)
    html = page.render(
        (),
        title="Accuracy against speed",
        template=TEMPLATES / "frontier.html.j2",
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        tasks={
            task: (rows(curves, task), table.percent(best(curves, task))) for task in _tasks(curves)
        },
        origins=origins,
        headings=HEADINGS,
        counted=COUNTED,
        mark=MARK,
        pictures=[base64.b64encode(picture).decode() for picture in (light, dark)],
    )
    folder = pathlib.Path(folder)
    files.write_bytes(folder / "frontier.png", light)
    files.write_bytes(folder / "frontier.html", html.encode("utf-8", errors="replace"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A point as it is shown.

    Attributes:
        published: not measured here.
        cells: texts in the order of the headings; curve and AUP in the first row of a curve alone.
        marked: headings of the counts by which no other point beats this one.
    """

    published: bool
    cells: list[str]
    marked: list[str]


def rows(curves: Sequence[Curve], task: str, *, bounds: bool = True) -> list[Row]:
    """A task's points, measured curves before published ones, in each the most accurate first.

    Without bounds the accuracy stands without its interval.
    """
    found = []
    marked = {count: unbeaten(curves, count) for count in COUNTS}
    for number, curve in sorted(enumerate(curves), key=lambda pair: pair[1].source is not None):
        if curve.task != task:
            continue
        score = aup(curve, curves)
        once = (curve.name, table.MISSING if score is None else f"{score:.1f}")
        for at in sorted(range(len(curve.points)), key=lambda at: -curve.points[at].accuracy):
            point = curve.points[at]
            interval = table.interval(
                {"accuracy_interval": bounds and point.accuracy_interval}, _ACCURACY
            )
            accuracy = f"{table.percent(point.accuracy)} {interval}".rstrip()
            if curve.source:  # others' figures as they published them, in hundredths
                accuracy = f"{100 * point.accuracy:.2f} %"
            counts = [point.count(count) for count in COUNTS]
            cells = [
                once[0],
                point.label,
                accuracy,
                *(table.MISSING if value is None else f"{value:.2f}" for value in counts),
                once[1],
            ]
            once = ("", "")
            headings = [
                heading
                for heading, count in zip(COUNTED, COUNTS, strict=True)
                if (number, at) in marked[count]
            ]
            found.append(Row(published=curve.source is not None, cells=cells, marked=headings))
    return found


def print_frontier(curves: Sequence[Curve], console: Console | None = None) -> None:
    """Prints a table for each task, published figures under the measured ones."""
    console = console or Console()
    for task in _tasks(curves):
        tables = [_table(task, rows(curves, task, bounds=bounds)) for bounds in (True, False)]
        table.print_fitting(tables, console)
        console.print(
            f"{MARK}: beaten by none of its kind in accuracy and this count. AUP is relative to "
            f"the best accuracy here, {table.percent(best(curves, task))}."
        )


def _table(task: str, shown: Sequence[Row]) -> Table:
    """A task's rows, a mark behind what nothing beats."""
    found = Table(box=box.SIMPLE_HEAD, show_edge=False, title=Text(task), title_justify="left")
    for at, heading in enumerate(HEADINGS):
        found.add_column(heading, justify="left" if at < 2 else "right", no_wrap=at > 0)
    ours = True
    for row in shown:
        if row.published and ours:
            found.add_section()
            found.add_row(Text("published by others:", style="italic"))
            ours = False
        cells = [
            f"{cell} {MARK if heading in row.marked else ' '}" if heading in COUNTED else cell
            for heading, cell in zip(HEADINGS, row.cells, strict=True)
        ]
        # Text, not markup: a name may hold square brackets.
        found.add_row(*map(Text, cells), style="bold" if row.marked else "")
    return found


def frontier_png(curves: Sequence[Curve], *, theme: plots.Theme = plots.LIGHT) -> bytes:
    """Accuracy over speed, one panel for each task and way of counting."""
    panels = [
        (task, count)
        for task in _tasks(curves)
        for count in COUNTS
        if _counted(curves, task, count)
    ]
    models = dict.fromkeys(curve.model or curve.name for curve in curves if curve.source is None)
    colours = plots.model_colours([*models], theme)
    height = 4.4 * len(panels)
    figure = Figure(figsize=(7.6, height), facecolor=theme.paper)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(panels),
        1,
        hspace=0.24,
        left=0.085,
        right=0.985,
        top=1 - 0.3 / height,
        bottom=0.47 / height,
    )
    for at, (task, count) in enumerate(panels):
        axes = figure.add_subplot(grid[at, 0])
        plots.dress(axes, theme)
        _panel(axes, [curve for curve in curves if curve.task == task], count, theme, colours)
        axes.set_title(task, loc="left", fontsize=9, color=theme.ink, parse_math=False)
    return plots.png(figure)


def _panel(
    axes: Axes,
    curves: Sequence[Curve],
    count: str,
    theme: plots.Theme,
    colours: Mapping[str, str],
) -> None:
    """The curves that were counted so, each named at its fastest point."""
    labels: list[Label] = []
    values: list[float] = []
    for curve in curves:
        points = sorted(
            ((value, p) for p in curve.points if (value := p.count(count)) is not None),
            key=lambda pair: pair[0],
        )
        if not points:
            continue
        ours = curve.source is None
        model = curve.model or curve.name
        colour = colours[model] if ours else theme.faint
        line = _LINES[
            [c for c in curves if (c.model or c.name) == model].index(curve) % len(_LINES)
        ]
        marker = "o" if ours else _HOLLOW[curves.index(curve) % len(_HOLLOW)]
        x = [value for value, _ in points]
        y = [100 * point.accuracy for _, point in points]
        for at, point in points:
            if point.accuracy_interval:
                ends = [100 * bound for bound in point.accuracy_interval]
                axes.plot([at, at], ends, color=colour, alpha=0.3, lw=1.6, solid_capstyle="butt")
        axes.plot(
            x,
            y,
            color=colour,
            ls=line if ours else (0, (1, 1.5)),
            lw=1.6 if ours else 1.0,
            marker=marker,
            ms=5.5,
            mfc=colour if ours else theme.paper,
            mec=theme.paper if ours else colour,
            mew=0.8 if ours else 1.2,
        )
        fastest = 0 if count == "nfe" else -1
        name = curve.name if ours else f"{curve.name} (published)"
        label = Label(text=name, x=x[fastest], y=y[fastest], colour=colour, bold=ours)
        labels.insert(0 if ours else len(labels), label)
        if ours:
            labels += [
                Label(text=point.label, x=at, y=100 * point.accuracy, colour=colour, size=7.5)
                for at, point in points
            ]
        values += x
    plots.accuracy_over(axes, values)
    axes.set_xlabel(_AXES[count])
    place(axes, labels, theme.paper)


def _counted(curves: Sequence[Curve], task: str, count: str) -> bool:
    """Whether a panel is drawn: ours have every count, so the canvas only where others have it."""
    kinds = [c.source for c in curves if c.task == task and any(p.count(count) for p in c.points)]
    return any(kinds) if count == "canvas_tpf" else bool(kinds)


def _tasks(curves: Sequence[Curve]) -> list[str]:
    return list(dict.fromkeys(curve.task for curve in curves))
