"""JSON and JSONL files as people have them: a byte-order mark, gzip, faults named by file and line.

Every reader of such files goes through here, so that all of them accept the same and say the same.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonFileError(ValueError):
    """A file that cannot be read, or a record in it that is not JSON; one line."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One value of a file.

    Attributes:
        where: file and line or entry, for messages.
        value: the parsed JSON; None where it is faulty.
        fault: what is wrong with it.
    """

    where: str
    value: Any = None
    fault: JsonFileError | None = None

    def get(self) -> Any:
        """The value.

        Raises:
            JsonFileError: it is faulty.
        """
        if self.fault is not None:
            raise self.fault
        return self.value


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file, of a `.gz` file what is packed in it; a byte-order mark is dropped.

    Raises:
        JsonFileError: no such file, or another encoding.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        # Line ends as Python reads them from text files.
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise JsonFileError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise JsonFileError(f"cannot read {path}: {reason}") from error


def parse(text: str, where: str) -> Any:
    """The value of a JSON text.

    Args:
        text: the JSON.
        where: file and line, for messages.

    Raises:
        JsonFileError: no JSON, or a string in it with a lone surrogate, which is no text.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise JsonFileError(
            f"{where}: not JSON: {error.msg} ({line}column {error.colno})"
        ) from error
    except RecursionError as error:
        raise JsonFileError(f"{where}: not JSON: nested too deeply") from error
    except ValueError as error:  # a number of more digits than Python converts
        raise JsonFileError(f"{where}: not JSON: {str(error).split(';')[0]}") from error
    if _SURROGATE.search(text):
        _check_surrogates(value, where)
    return value


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value of a JSON file.

    Raises:
        JsonFileError: an unreadable file, or no JSON.
    """
    return parse(read_text(path), str(path))


def records(path: str | os.PathLike[str], *, unfinished: bool = True) -> Iterator[Record]:
    """The values of a JSONL file, or of a `.json` file that holds a list; blank lines are skipped.

    Args:
        path: the file.
        unfinished: take a last line without a line end; False leaves it out, for files that are
            still written.

    Raises:
        JsonFileError: an unreadable file, or a `.json` file that holds no list.
    """
    text = read_text(path)
    if os.fspath(path).removesuffix(".gz").endswith(".json"):
        yield from _entries(text, path)
        return
    # Not splitlines(): that also breaks at characters JSON strings may hold.
    lines = text.split("\n")
    for number, line in enumerate(lines if unfinished else lines[:-1], 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield Record(where, parse(line, where))
            except JsonFileError as error:
                yield Record(where, fault=error)


def kind(value: Any) -> str:
    """What a JSON value is, in words for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {str(value)[:20]}"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "an object"


def _entries(text: str, path: str | os.PathLike[str]) -> Iterator[Record]:
    try:
        values = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError):
        values = parse(text, str(path))  # says why
    if not isinstance(values, list):
        raise JsonFileError(
            f"{path}: expected a JSON list of objects, or JSON lines in a .jsonl file"
        )
    suspect = _SURROGATE.search(text) is not None
    for number, value in enumerate(values, 1):
        where = f"{path}, entry {number}"
        try:
            if suspect:
                _check_surrogates(value, where)
            yield Record(where, value)
        except JsonFileError as error:
            yield Record(where, fault=error)


def _check_surrogates(value: Any, where: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        code = f"\\u{ord(error.object[error.start]):04x}"
        raise JsonFileError(
            f"{where}: holds {code}, half of a character (a lone surrogate), which is not text; "
            "remove it, or write the whole character"
        ) from error
