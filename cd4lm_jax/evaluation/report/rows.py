"""Rows of summary.json as tables and pictures read them.

A row is one run: `name`, `model`, `rule` (such as `confidence:0.9`) and what was measured. The
summary names the row that speed-ups refer to, its `baseline`; here that row is marked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SUMMARY_FILE = "summary.json"

Row = Mapping[str, Any]

_REQUIRED = ("name", "model", "rule")
# Summaries from before rows said which of them is the baseline.
_OLD_BASELINE = ("teacher", "fixed:1")


def of(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a summary, the baseline marked if the summary names one.

    Raises:
        ValueError: rows that `read` refuses, or a baseline that no row is named after.
    """
    given = summary.get("rows") or ()
    if not isinstance(given, Sequence):
        raise ValueError(f'report: "rows" is no list of runs: {given!r}')
    rows = read(given)
    if "baseline" not in summary:
        return rows
    name, names = summary["baseline"], [row["name"] for row in rows]
    if name is not None and name not in names:
        raise ValueError(f"report: baseline is {name!r}, but no row has that name; {names}")
    return [row | {"baseline": row["name"] == name} for row in rows]


def read(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows that have what every row has; the older key `commit` is read as `rule`.

    Raises:
        ValueError: a row without name, model or rule.
    """
    found = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(
                f"report: row {number} is no object with {', '.join(_REQUIRED)}: {row!r}"
            )
        one = {"rule" if key == "commit" else key: value for key, value in row.items()}
        if missing := [key for key in _REQUIRED if not isinstance(one.get(key), str)]:
            raise ValueError(f"report: row {number} lacks {', '.join(missing)}: {dict(row)!r}")
        found.append(one)
    return found


def baseline(rows: Sequence[Row]) -> Row | None:
    """The row that speed-ups refer to; None where there is none."""
    if any("baseline" in row for row in rows):
        return next((row for row in rows if row.get("baseline")), None)
    return next((row for row in rows if (row["model"], row["rule"]) == _OLD_BASELINE), None)


def models(rows: Sequence[Row]) -> list[str]:
    """The models in the order of their colours: the baseline's first, the others by name."""
    first = baseline(rows)
    names = {str(row["model"]) for row in rows}
    return sorted(names, key=lambda name: (first is None or name != first["model"], name))


def series(row: Row) -> str:
    """The name of a row's rule and its options, without its numbers: what one line shows.

    >>> [series({"rule": rule}) for rule in ("fixed:1", "factor:1.0 cache=dual", "random")]
    ['fixed', 'factor cache=dual', 'random']
    """
    head, _, options = str(row["rule"]).partition(" ")
    return f"{head.partition(':')[0]} {options}".rstrip()


def setting(row: Row) -> str:
    """What distinguishes the rows of one line, such as a threshold.

    >>> setting({"rule": "factor:1.0 cache=dual"})
    '1.0'
    """
    return str(row["rule"]).partition(" ")[0].partition(":")[2]
