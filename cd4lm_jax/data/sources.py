"""Where questions and answers come from: TFDS datasets and local JSON files.

gsm_mini/full, gsm_mini/distill   generated here when their files are missing
gsm8k                             TFDS's own builder, prepared beforehand
path/to/file.jsonl, file.json     objects with the fields "question" and "answer"; of their splits
                                  only slices count, "train[:95%]"
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict

DataDir = str | os.PathLike[str] | None


class SourceError(ValueError):
    """A data source that cannot be read, or does not hold what was asked for."""


class Example(TypedDict):
    """A question and its worked answer."""

    question: str
    answer: str


class Source(Protocol):
    """Examples by their place in a split."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        """Several at once, which is much faster for files on disk."""
        ...


class _FileSource:
    """The examples of a JSON or JSONL file, in memory."""

    def __init__(self, examples: list[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        return [self._examples[index] for index in indices]


class _TfdsSource:
    """The examples of a TFDS split, read from ArrayRecord files as they are asked for."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        return [
            {"question": row["question"].decode(), "answer": row["answer"].decode()}
            for row in self._rows.__getitems__([int(index) for index in indices])
        ]


def open_source(
    name: str, split: str, data_dir: DataDir = None, *, max_malformed: int = 0
) -> Source:
    """Opens a split of a dataset for random access.

    Args:
      name: "gsm_mini/full", "gsm_mini/distill", "gsm8k", or the path of a .jsonl or .json file.
      split: a split of the dataset, or a slice of one in TFDS's notation ("train[:90%]"). A file
        is one split, whatever the name; a slice of it is a slice of the file.
      data_dir: where TFDS datasets live; None for TFDS's own default.
      max_malformed: faulty records of a file that are skipped, and counted in a warning.

    Raises:
      SourceError: no such dataset, split or file, or the file holds no examples, or more faulty
        ones than are skipped: the first that is too many is named.
    """
    if Path(name).suffix in (".json", ".jsonl"):
        return _FileSource(_slice(_read_file(Path(name), max_malformed), name, split))
    dataset, _, config = name.partition("/")
    if dataset == "gsm_mini":
        # Imported here because it takes seconds, and a JSON file needs none of it.
        from cd4lm_jax.data.gsm_mini.builder import GsmMini, prepare

        known = [known.name for known in GsmMini.BUILDER_CONFIGS]
        if config and config not in known:
            raise SourceError(
                f"no dataset {name!r}: expected gsm_mini/{' or gsm_mini/'.join(known)}"
            )
        builder: Any = prepare(config or known[0], data_dir)
    elif name == "gsm8k":
        builder = _prepared_gsm8k(data_dir)
    else:
        raise SourceError(
            f"no data source {name!r}: expected gsm_mini/full, gsm_mini/distill, gsm8k, or the "
            "path of a .jsonl or .json file"
        )
    if split.partition("[")[0] not in builder.info.splits:
        raise SourceError(
            f"{name} has no split {split!r}: expected one of {[*builder.info.splits]}"
        )
    return _TfdsSource(builder.as_data_source(split=split))


def read_rows(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a .json, .jsonl or .jsonl.gz file, each with these text fields.

    Raises:
      SourceError: an unreadable or empty file, or a row without such a field: it is named.
    """
    text = _read_text(path)
    found = _entries(path, text)
    if path.suffix != ".json":
        found = ((where, _parse(where, line)) for where, line in _lines(path, text))
    rows = [_with_texts(where, row, fields) for where, row in found]
    if not rows:
        raise SourceError(f"{path} is empty: expected objects with {', '.join(fields)}")
    return rows


def _prepared_gsm8k(data_dir: DataDir) -> Any:
    """TFDS's builder of GSM8K, its files already on disk; nothing is downloaded here."""
    from tensorflow_datasets.text.gsm8k.gsm8k import Gsm8k

    folder = None if data_dir is None else os.fspath(data_dir)
    builder = Gsm8k(data_dir=folder, file_format="array_record")
    if not (Path(builder.data_path) / "dataset_info.json").is_file():
        raise SourceError(
            f"gsm8k is not in {builder.data_path}: name a .jsonl file of it, or let TFDS fetch it "
            'with `python -c "from tensorflow_datasets.text.gsm8k.gsm8k import Gsm8k; '
            f"Gsm8k(data_dir={folder!r}, file_format='array_record').download_and_prepare()\"`"
        )
    return builder


def _slice(examples: list[Example], name: str, split: str) -> list[Example]:
    """The part of a file that a split names, rounded as TFDS rounds percentages."""
    match = re.fullmatch(r"[^\[]*(?:\[(\d+%?)?:(\d+%?)?\])?", split)
    if match is None:
        raise SourceError(
            f"{name} has no split {split!r}: expected a name, or a slice such as train[:95%] or "
            "train[1000:]"
        )

    def place(bound: str | None, default: int) -> int:
        if bound is None:
            return default
        if bound.endswith("%"):
            return round(len(examples) * int(bound[:-1]) / 100)
        return int(bound)

    part = examples[place(match[1], 0) : place(match[2], len(examples))]
    if not part:
        raise SourceError(f"{name} has {len(examples)} examples, none of them in {split!r}")
    return part


def _read_file(path: Path, max_malformed: int) -> list[Example]:
    text = _read_text(path)
    lines = path.suffix != ".json"
    examples: list[Example] = []
    malformed: list[SourceError] = []
    for where, row in _lines(path, text) if lines else _entries(path, text):
        try:
            examples.append(_example(where, _parse(where, row) if lines else row))
        except SourceError as error:
            malformed.append(error)
            if len(malformed) <= max_malformed:
                continue
            if not max_malformed:
                raise
            raise SourceError(
                f"{error}; it is malformed record {len(malformed)} of the file, and max_malformed "
                f"is {max_malformed}: mend the file or raise the limit"
            ) from error
    if malformed:
        logging.getLogger(__name__).warning(
            "%s: %d malformed records skipped, the first at %s", path, len(malformed), malformed[0]
        )
    if not examples:
        raise SourceError(f"{path} is empty: expected an object with question and answer a line")
    return examples


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise SourceError(f"cannot read {path}: {error}") from error


def _lines(path: Path, text: str) -> Iterator[tuple[str, str]]:
    # Not splitlines(): that also breaks at characters JSON strings may hold.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}, line {number}", line


def _entries(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    rows = _parse(str(path), text) if text.strip() else []
    if not isinstance(rows, list):
        raise SourceError(
            f"{path}: expected a JSON list of objects, or JSON lines in a .jsonl file"
        )
    for number, row in enumerate(rows, 1):
        yield f"{path}, entry {number}", row


def _parse(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise SourceError(f"{where}: not JSON ({error})") from error


def _example(where: str, row: Any) -> Example:
    row = _with_texts(where, row, ("question", "answer"))
    return {"question": row["question"], "answer": row["answer"]}


def _with_texts(where: str, row: Any, fields: Sequence[str]) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise SourceError(f"{where}: expected an object with {' and '.join(fields)}")
    for field in fields:
        if not isinstance(row.get(field), str):
            raise SourceError(f'{where}: expected a text field "{field}", found {sorted(row)}')
    return row
