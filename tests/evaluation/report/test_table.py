from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from cd4lm_jax.evaluation.report import table

ROW: dict[str, Any] = {
    "name": "student confidence:0.95",
    "model": "student",
    "rule": "confidence:0.95",
    "accuracy": 0.9684,
    "accuracy_interval": [0.95, 0.98],
    "nfe": 5.348,
    "tpf": 4.9612,
    "canvas_tpf": 12.084,
    "tps": 3509.4,
    "speedup": 11.26,
    "problems": 1319,
}
SHOWN = ["96.8 %", "5.3", "4.96", "12.08", "3,509", "11.3×", "1,319"]


def printed(rows: list[dict[str, Any]], *, width: int, terminal: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, no_color=True)
    table.print_table(rows, console, chosen=rows[0]["name"])
    return stream.getvalue()


def test_every_number_has_one_rounding() -> None:
    assert [table.cell(ROW, c) for c in table.COLUMNS if c.numeric] == SHOWN


@pytest.mark.parametrize(("value", "text"), [(0.41, "0.4"), (63.8, "63.8"), (256.0, "256")])
def test_decimals_only_while_they_matter(value: float, text: str) -> None:
    assert table.rate(value) == text


def test_what_was_not_measured_is_a_dash_and_not_zero() -> None:
    row = {"name": "a", "model": "teacher", "rule": "fixed:1", "nfe": 0.0, "tps": float("nan")}
    shown = {c.key: table.cell(row, c) for c in table.COLUMNS}
    assert shown["nfe"] == "0.0"
    assert {shown[k] for k in ("accuracy", "tps", "speedup", "problems")} == {table.MISSING}
    assert table.interval(row, table.COLUMNS[3]) == ""


def test_the_columns_are_those_of_the_summary_and_all_are_defined() -> None:
    keys = [column.key for column in table.COLUMNS]
    assert keys == [key for key in ROW if key != "accuracy_interval"]
    assert all(column.meaning.endswith(".") for column in table.COLUMNS)


def test_a_file_gets_the_whole_table() -> None:
    text = printed([ROW], width=40)
    line = next(line for line in text.splitlines() if "student" in line)
    assert line.split()[:3] == ["student", "confidence:0.95", "student"]
    assert all(value in line for value in SHOWN)
    assert "[95.0, 98.0]" in line


def test_a_narrow_terminal_cuts_no_number() -> None:
    text = printed([ROW], width=80, terminal=True)
    assert all(value in text for value in [*SHOWN, "confidence:0.95"])
    assert "[95.0" not in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= 80


def test_names_are_not_read_as_markup() -> None:
    assert "[red]evil[/red]" in printed([ROW | {"name": "[red]evil[/red]"}], width=200)
