"""Labels beside what they name instead of a legend, kept clear of each other and of the lines."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

# Directions from the point, preferred first, and how far in points beyond the clearance.
_ANGLES = (90, -90, 45, -45, 135, -135, 0, 180, 20, -20, 160, -160)
_DISTANCES = (0, 5, 11, 18, 26, 36, 48)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """A text for the point (x, y) in data coordinates.

    Attributes:
        text: shown as it is (no mathematics).
        x, y: the point.
        colour: of the text.
        size: of the font, in points.
        bold: weight.
        clearance: distance kept from the point, in points.
    """

    text: str
    x: float
    y: float
    colour: str
    size: float = 9.0
    bold: bool = False
    clearance: float = 6.0


def place(axes: Axes, labels: Sequence[Label], paper: str) -> None:
    """Draws the labels near their points; call it last, as limits and lines must be final.

    Greedy: every label in turn takes the free spot nearest to its point. Deterministic, and good
    enough for the few dozen labels of a plot.

    Args:
        axes: of a figure with an Agg canvas.
        labels: in order of importance.
        paper: background colour, drawn as a thin halo around the text.
    """
    renderer, scale = _pixels(axes)
    inside = axes.get_window_extent(renderer)
    occupied = _occupied(axes)
    taken: list[Bbox] = []
    for label in labels:
        text = _annotate(axes, label, "center", paper)
        box = text.get_window_extent(renderer)
        best = (math.inf, (0.0, 0.0), box)
        for rank, distance in enumerate(_DISTANCES):
            for turn, angle in enumerate(_ANGLES):
                offset = _offset(box, angle, (label.clearance + distance) * scale)
                moved = box.translated(*offset)
                cost = _cost(moved, inside, taken, occupied) + rank + 0.05 * turn
                if cost < best[0]:
                    best = (cost, offset, moved)
        _, (dx, dy), chosen = best
        text.set_position((dx / scale, dy / scale))
        taken.append(chosen)


def place_right(axes: Axes, labels: Sequence[Label], paper: str) -> None:
    """Draws the labels in a column right of the axes, each as near to its height as they allow.

    Args:
        axes: of a figure with an Agg canvas and with room to its right.
        labels: in any order.
        paper: background colour.
    """
    _, scale = _pixels(axes)
    height = {label: axes.transData.transform((label.x, label.y))[1] for label in labels}
    lowest = -math.inf
    for label in sorted(labels, key=height.__getitem__):
        lowest = max(height[label], lowest + 1.3 * label.size * scale)
        text = _annotate(axes, label, "left", paper)
        text.set_position((label.clearance, (lowest - height[label]) / scale))


def _pixels(axes: Axes) -> tuple[RendererAgg, float]:
    """The renderer that measures text, and pixels per point; limits are settled by then."""
    axes.autoscale_view()
    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    assert isinstance(figure.canvas, FigureCanvasAgg)
    renderer: RendererAgg = figure.canvas.get_renderer()
    return renderer, figure.dpi / 72


def _annotate(axes: Axes, label: Label, side: Literal["left", "center"], paper: str) -> Annotation:
    """The label's text on its point; it is moved from there in points."""
    return axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=(0, 0),
        textcoords="offset points",
        color=label.colour,
        fontsize=label.size,
        fontweight="bold" if label.bold else "normal",
        ha=side,
        va="center",
        parse_math=False,
        path_effects=[patheffects.withStroke(linewidth=2, foreground=paper)],
    )


def _offset(box: Bbox, angle: float, distance: float) -> tuple[float, float]:
    """How to move a box centred on the point so that its edge is `distance` away from it."""
    dx, dy = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return dx * (distance + box.width / 2), dy * (distance + box.height / 2)


def _occupied(axes: Axes) -> npt.NDArray[np.float64]:
    """Points in pixels along every line of the axes, [P, 2]."""
    along = []
    for line in axes.get_lines():
        points = line.get_transform().transform(line.get_xydata())
        for start, end in itertools.pairwise(points):
            steps = max(2, int(np.hypot(*(end - start)) / 4))
            along.append(np.linspace(start, end, steps))
        if len(points) == 1:
            along.append(points)
    return np.concatenate(along) if along else np.empty((0, 2))


def _cost(
    box: Bbox, inside: Bbox, taken: Sequence[Bbox], occupied: npt.NDArray[np.float64]
) -> float:
    """How badly a spot suits: outside the axes or on a label is worse than on a line."""
    cost = 0.0
    if box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1:
        cost += 200.0
    cost += 100.0 * sum(box.padded(1.0).overlaps(other) for other in taken)
    hit = (
        (occupied[:, 0] > box.x0)
        & (occupied[:, 0] < box.x1)
        & (occupied[:, 1] > box.y0)
        & (occupied[:, 1] < box.y1)
    )
    return cost + float(min(hit.sum(), 12))
