"""The report of a run: two pictures and one self-contained page.

The page is the one that replays decodes (replay/page.py) with pictures, the table and a browser of
all problems (problems.py), whose decodes are replayed.
"""

from __future__ import annotations

import base64
import difflib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cd4lm_jax.evaluation.report import plots, problems, table
from cd4lm_jax.evaluation.report import rows as row_forms
from cd4lm_jax.evaluation.report.table import print_table
from cd4lm_jax.replay import page
from cd4lm_jax.runtime import files

__all__ = ["print_table", "render", "write_report"]

TEMPLATES = pathlib.Path(__file__).parent / "templates"


def write_report(
    folder: str | os.PathLike[str],
    summary: Mapping[str, Any],
    curves: Sequence[Mapping[str, Any]] = (),
    records: Mapping[str, str | os.PathLike[str]] | None = None,
    *,
    text: Callable[[int], str] = str,
    title: str = "Distilled and decoded adaptively",
) -> None:
    """Writes pareto.png, training.png (if there are curves) and report.html into a folder.

    All three are made before the first is written, and each is written atomically.

    Args:
        folder: created where missing.
        summary: {"rows": [{"name", "model", "rule", "accuracy", "accuracy_interval", "nfe", "tpf",
            "canvas_tpf", "tps", "speedup", "problems"}], "baseline": name of the row that speed-ups
            refer to or None, "chosen": name of a row or None, "judged": what counts as right,
            "notes": [text]}, and "device" and "batch_size", which TPS and speed-up depend on. In a
            row all but the first three may be missing and are then shown as not measured; "tps" and
            "speedup" may have an "..._interval" as the accuracy has.
        curves: rows of metrics.jsonl, in any order.
        records: the problems.jsonl of rows, by the rows' names, as problems.pack reads them: what
            the browser of all problems shows.
        text: of a token id of those records.
        title: of the page.

    Raises:
        ValueError: no rows, a row without name, model or rule, a chosen name or a record's that no
            row has, or records that cannot be read.
    """
    rows, chosen = _checked(summary)
    pictures = {"pareto": _both(plots.pareto_png, rows, chosen=chosen)}
    if curves:
        pictures["training"] = _both(plots.training_png, curves)
    packed = _packed(rows, chosen, records, text) if records else None
    html = render(summary, pictures, title=title, packed=packed)
    folder = pathlib.Path(folder)
    for name, (light, _) in pictures.items():
        files.write_bytes(folder / f"{name}.png", light)
    # A lone surrogate in a model's output must not cost the report.
    files.write_bytes(folder / "report.html", html.encode("utf-8", errors="replace"))


def render(
    summary: Mapping[str, Any],
    pictures: Mapping[str, tuple[bytes, bytes]],
    *,
    title: str,
    packed: problems.Packed | None = None,
) -> str:
    """The page as HTML; pictures are PNG by name, each in light and in dark.

    Packed problems get a browser of them.
    """
    rows, chosen = _checked(summary)
    names = ["report.css", "problems.css"] if packed else ["report.css"]
    return page.render(
        (),
        title=title,
        template=TEMPLATES / "report.html.j2",
        style="".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names),
        script=(TEMPLATES / "problems.js").read_text(encoding="utf-8") if packed else "",
        packed=packed,
        columns=table.COLUMNS,
        rows=rows,
        chosen=chosen,
        best=next((row for row in rows if row["name"] == chosen), None),
        baseline=row_forms.baseline(rows),
        cell=table.cell,
        interval=table.interval,
        column={column.key: column for column in table.COLUMNS},
        judged=summary.get("judged"),
        notes=summary.get("notes") or (),
        device=summary.get("device"),
        batch_size=summary.get("batch_size"),
        pictures={
            name: [base64.b64encode(picture).decode() for picture in both]
            for name, both in pictures.items()
        },
    )


def _checked(summary: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str | None]:
    """The summary's rows and its chosen name, or an error that says what is wrong with them."""
    rows = row_forms.of(summary)
    if not rows:
        raise ValueError('report: the summary has no "rows", expected at least one run')
    chosen = summary.get("chosen")
    names = [row["name"] for row in rows]
    if chosen is not None and chosen not in names:
        nearest = difflib.get_close_matches(str(chosen), names, n=1, cutoff=0.0)
        raise ValueError(
            f"report: chosen is {chosen!r}, but no row has that name; nearest is {nearest[0]!r}"
        )
    return rows, chosen


def _packed(
    rows: Sequence[Mapping[str, Any]],
    chosen: str | None,
    records: Mapping[str, str | os.PathLike[str]],
    text: Callable[[int], str],
) -> problems.Packed:
    """The problems for the browser, opened on the chosen run (or the last) and the baseline."""
    names = [row["name"] for row in rows if row["name"] in records]
    if unknown := sorted(set(records) - set(names)):
        raise ValueError(f"report: got records of {unknown[0]!r}, but no row has that name")
    baseline = row_forms.baseline(rows)
    shown = chosen if chosen is not None and chosen in names else names[-1]
    beside = baseline["name"] if baseline and baseline["name"] in names else None
    return problems.pack(
        {name: records[name] for name in names}, text=text, shown=shown, beside=beside
    )


def _both(draw: Any, data: Sequence[Mapping[str, Any]], **options: Any) -> tuple[bytes, bytes]:
    """A picture for light and for dark pages."""
    light, dark = (draw(data, theme=theme, **options) for theme in (plots.LIGHT, plots.DARK))
    return light, dark
