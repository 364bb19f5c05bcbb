"""Files of rows: JSON lines, JSON, Parquet, and folders that `datasets` saved.

    rows.jsonl, rows.jsonl.gz, rows.json   see `cd4lm_jax.runtime.json_files`
    rows.parquet                           one object a row
    folder/                                what `Dataset.save_to_disk` or `DatasetDict.save_to_disk`
                                           wrote: Arrow files listed in state.json, a folder a split

Parquet and folders need pyarrow (`pip install '.[data]'`). Their columns hold null where a field is
absent, so nulls within a row's lists and objects are left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cd4lm_jax.data.conversations import RowError, text
from cd4lm_jax.runtime.json_files import JsonFileError, Record, kind, read_json, records

_STATE, _SPLITS = "state.json", "dataset_dict.json"


class SourceError(ValueError):
    """A data source that cannot be read, or does not hold what was asked for."""


def is_file(name: str) -> bool:
    """Whether a source's name is a path of rows, not a dataset's name."""
    suffix = Path(name.removesuffix(".gz")).suffix
    return suffix in (".json", ".jsonl", ".parquet") or _is_saved(Path(name))


def read_records(path: str | os.PathLike[str], split: str = "") -> Iterator[Record]:
    """The rows of a file or a folder.

    Args:
        path: one of the forms above.
        split: its name, before any slice, chooses the folder of a `DatasetDict`; a file has one.

    Raises:
        SourceError: an unreadable file, a split that a folder lacks, or no pyarrow.
    """
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
        elif _is_saved(path):
            yield from _saved(path, split.partition("[")[0])
        else:
            yield from records(path)
    except JsonFileError as error:
        raise SourceError(str(error)) from error


def read_rows(
    path: str | os.PathLike[str], fields: Sequence[str]
) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a data file, each with these text fields, and their places in words.

    A number in such a field is the text that it is written as.

    Raises:
        SourceError: an unreadable or empty file, or a row without such a field: it is named.
    """
    rows = []
    for record in read_records(path):
        try:
            row = record.get()
            if not isinstance(row, dict):
                raise RowError(f"expected an object with {' and '.join(fields)}, found {kind(row)}")
            rows.append((record.where, row | {field: text(row, field) for field in fields}))
        except JsonFileError as error:
            raise SourceError(str(error)) from error
        except RowError as error:
            raise SourceError(f"{record.where}: {error}") from error
    if not rows:
        raise SourceError(f"{path} is empty: expected objects with {', '.join(fields)}")
    return rows


def _is_saved(path: Path) -> bool:
    return (path / _STATE).is_file() or (path / _SPLITS).is_file()


def _parquet(path: Path) -> Iterator[Record]:
    arrow = _arrow("parquet", path)
    try:
        with arrow.ParquetFile(path) as file:
            yield from _rows(file.iter_batches(), path)
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise _unreadable(path, error) from error


def _saved(path: Path, split: str) -> Iterator[Record]:
    """The rows of a folder that `datasets` saved, by the Arrow files that its state names."""
    if (path / _SPLITS).is_file():
        splits = _field(path / _SPLITS, "splits")
        if split not in splits:
            raise SourceError(f"{path} has no split {split!r}: expected one of {sorted(splits)}")
        path /= split
    arrow = _arrow("ipc", path)
    files = [path / str(entry["filename"]) for entry in _field(path / _STATE, "_data_files")]

    def batches() -> Iterator[Any]:
        for file in files:
            with arrow.open_stream(file.read_bytes()) as stream:
                yield from stream

    try:
        yield from _rows(batches(), path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _rows(batches: Iterator[Any], path: Path) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            where = f"{path}, row {number}"
            yield Record(where, {name: _without_nulls(value) for name, value in row.items()})


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(part) for k, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def _field(path: Path, name: str) -> list[Any]:
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get(name), list):
        raise SourceError(f"{path} has no list {name!r}; expected what `save_to_disk` writes")
    return found[name]


def _arrow(module: str, path: Path) -> Any:
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise SourceError(
            f"{path} needs pyarrow, which is not installed: `pip install '.[data]'`, or give the "
            "rows as a .jsonl file"
        ) from error
    return getattr(pyarrow, module)


def _unreadable(path: Path, error: Exception) -> SourceError:
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return SourceError(f"cannot read {path}: {reason}")
