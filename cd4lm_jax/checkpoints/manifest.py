"""SHA-256 of the files of a folder of weights: written with them, compared when they are read."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping

import jax

from cd4lm_jax.runtime import files

FILE = "checksums.json"
_ALGORITHM = "sha256"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class DamagedFileError(ValueError):
    """A file of weights that is missing or no longer what was written; one line."""


def digests(folder: pathlib.Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 in hexadecimal of files by name, read in parallel and a block at a time.

    Raises:
        OSError: a file cannot be read.
    """

    def digest(name: str) -> str:
        with (folder / name).open("rb") as opened:
            return hashlib.file_digest(opened, _ALGORITHM).hexdigest()

    ordered = sorted(names)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(ordered, threads.map(digest, ordered), strict=True))


def write(folder: pathlib.Path) -> None:
    """Writes the checksums of all files in a folder as `checksums.json` in it."""
    names = [
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and file.name != FILE and not file.name.startswith(files.TEMPORARY_PREFIX)
    ]
    text = json.dumps({"algorithm": _ALGORITHM, "files": digests(folder, names)}, indent=1)
    files.write_text(folder / FILE, text + "\n")


def check(folder: pathlib.Path) -> None:
    """Compares a folder with its `checksums.json`; one without that file passes.

    Raises:
        DamagedFileError: a file is missing or has changed, or `checksums.json` cannot be read.
    """
    listed = folder / FILE
    if not listed.is_file():
        return
    try:
        data = json.loads(files.read_text(listed))
        expected = dict(data["files"])
        known = data["algorithm"] == _ALGORITHM and valid(expected)
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise DamagedFileError(
            f"{listed} is damaged; copy the folder again, or load it without verification"
        )
    compare(folder, expected, FILE)


def valid(expected: Mapping[str, object]) -> bool:
    """Whether every value is a SHA-256 in hexadecimal."""
    return all(isinstance(each, str) and _DIGEST.fullmatch(each) for each in expected.values())


def compare(folder: pathlib.Path, expected: Mapping[str, str], source: str) -> None:
    """Compares files with their checksums; each process of a cluster reads its part of them.

    Args:
        folder: where the files are.
        expected: SHA-256 by name.
        source: the file that lists them, for the message.

    Raises:
        DamagedFileError: a file is missing or has changed.
    """
    names = sorted(expected)[jax.process_index() :: jax.process_count()]
    for name in names:
        if not (folder / name).is_file():
            raise DamagedFileError(f"{folder / name} is missing, {source} lists it; copy it again")
    for name, digest in digests(folder, names).items():
        if digest != expected[name]:
            raise DamagedFileError(
                f"{folder / name} is damaged: its SHA-256 is not the one in {source}; copy it "
                "again, or load the model without verification"
            )
