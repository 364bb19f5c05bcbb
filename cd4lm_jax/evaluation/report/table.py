"""The summary table: its columns, what they mean and how their numbers are rounded.

The one place that formats a number for people: the terminal, the HTML report and its legend all
read `COLUMNS`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cd4lm_jax.evaluation.report.rows import read

MISSING = "\u2013"


def percent(value: float) -> str:
    """A share as percent, one decimal: a thousand problems say no more."""
    return f"{100 * value:.1f} %"


def times(value: float) -> str:
    """A factor, such as a speed-up."""
    return f"{value:.1f}\u00d7" if value < 100 else f"{value:,.0f}\u00d7"


def rate(value: float) -> str:
    """A count or a rate, decimals only while they matter."""
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One column: the row's key, its heading, its definition in a sentence, its rounding."""

    key: str
    title: str
    meaning: str
    render: Callable[[Any], str] = str
    numeric: bool = True


COLUMNS = (
    Column(
        key="name",
        title="name",
        meaning="The run.",
        numeric=False,
    ),
    Column(
        key="model",
        title="model",
        meaning="The model that was decoded, such as the teacher or its student.",
        numeric=False,
    ),
    Column(
        key="rule",
        title="rule",
        meaning="The commit rule: when a position's token is committed. fixed:k commits the k "
        "positions of highest confidence in every pass; confidence:t commits every position whose "
        "token is at least t probable, at least one a pass (confidence-adaptive decoding, CAD).",
        numeric=False,
    ),
    Column(
        key="accuracy",
        title="accuracy",
        meaning="Share of problems answered right; beside it its 95 % interval (Wilson).",
        render=percent,
    ),
    Column(
        key="nfe",
        title="NFE",
        meaning="Forward passes of the model a problem, mean; a row counts passes while it is "
        "unfinished, those that build a cache included.",
        render=rate,
    ),
    Column(
        key="tpf",
        title="TPF",
        meaning="Tokens per forward pass: generated tokens before the first end token over NFE, "
        "mean of the problems' ratios.",
        render="{:.2f}".format,
    ),
    Column(
        key="canvas_tpf",
        title="canvas TPF",
        meaning="Generation length over NFE, mean of the problems' ratios: the tail after the "
        "end token counted too, as some papers do.",
        render="{:.2f}".format,
    ),
    Column(
        key="tps",
        title="TPS",
        meaning="Generated tokens before the first end token of all problems per second of "
        "decoding, compilation and first call excluded; of several timings the median, beside it "
        "the lowest and the highest.",
        render=rate,
    ),
    Column(
        key="speedup",
        title="speed-up",
        meaning="Wall-clock time of the baseline (same problems and lengths) over this run's, in "
        "the same process. Where runs were timed several times in turn: the median of the ratios, "
        "beside it the lowest and the highest.",
        render=times,
    ),
    Column(
        key="problems",
        title="problems",
        meaning="Held-out problems behind the row.",
        render="{:,}".format,
    ),
)


def cell(row: Mapping[str, Any], column: Column) -> str:
    """A row's value as shown; a dash where it was not measured."""
    value = row.get(column.key)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    return column.render(value)


def interval(row: Mapping[str, Any], column: Column) -> str:
    """The interval or spread of a row's value as shown in brackets; an empty string without one."""
    bounds = row.get(f"{column.key}_interval")
    if not bounds:
        return ""
    low, high = (column.render(bound).removesuffix(" %") for bound in bounds)
    return f"[{low}, {high}]"


def print_table(
    rows: Sequence[Mapping[str, Any]], console: Console | None = None, *, chosen: str | None = None
) -> None:
    """Prints the summary's rows as one table, the chosen run's in bold.

    On a terminal that is too narrow the intervals go first, then the names (model and rule say
    the same); numbers are never cut. In a file or a pipe the table has its full width.
    """
    checked = read(rows)
    print_fitting(
        [
            _table(checked, chosen, bounds=bounds, names=names)
            for bounds, names in ((True, True), (False, True), (False, False))
        ],
        console or Console(),
    )


def print_fitting(tables: Sequence[Table], console: Console) -> None:
    """Prints the first of several forms of a table that fits a terminal, the fullest to a file."""
    wide = console.options.update(width=10_000)
    widths = [Measurement.get(console, wide, table).maximum for table in tables]
    fitting = [t for t, w in zip(tables, widths, strict=True) if w <= console.width]
    if console.is_terminal:
        console.print(fitting[0] if fitting else tables[-1])
    else:
        tables[0].width = widths[0]
        console.print(tables[0], crop=False, overflow="ignore")


def _table(
    rows: Sequence[Mapping[str, Any]], chosen: str | None, *, bounds: bool, names: bool
) -> Table:
    """The table with or without intervals, with or without the column of names."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.padding = (0, 1, 0, 0)
    columns = [column for column in COLUMNS if names or column.key != "name"]
    for column in columns:
        table.add_column(
            column.title.replace(" ", "\n").replace("-", "-\n"),
            justify="right" if column.numeric else "left",
            no_wrap=column.numeric,
            overflow="fold",
            vertical="bottom",
        )
    for row in rows:
        cells = [
            f"{cell(row, column)} {interval(row, column) if bounds else ''}".rstrip()
            for column in columns
        ]
        # Text, not markup: a name may hold square brackets.
        table.add_row(*map(Text, cells), style="bold" if row.get("name") == chosen else "")
    return table
