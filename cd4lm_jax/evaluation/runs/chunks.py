"""A file of JSON lines that is written a chunk at a time, by one process or several.

    FILE                  lines of the first chunks, without a gap; the main process appends them
    FILE.parts/NUMBER     a chunk that came before an earlier one: other processes write these

What a kill leaves of a chunk is dropped. A chunk has the same lines whoever writes it, so the file
ends with the same bytes however many processes there were and however often they were started.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from cd4lm_jax.runtime import cluster, files


def differences(settings: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """The names of settings that are not those that were saved."""
    names = dict.fromkeys([*settings, *saved])
    return [name for name in names if settings.get(name) != saved.get(name)]


class ChunkedLines:
    """The file while it is written.

    On several hosts all make one of the same path, which they share, and call `gather` in the end.

    Attributes:
        path: of the file.
        written: chunks in the file; those in parts come beside.
        complete: how many chunks there are to be.
        scattered: whether some chunks were in parts when the file was opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, total: int, chunk: int) -> None:
        """Opens the file, or begins it, and drops what is no whole chunk.

        Args:
            path: of the file; its folder is made.
            total: lines that there are to be.
            chunk: lines that are written together.
        """
        self.path = pathlib.Path(path)
        self._parts = self.path.with_name(f"{self.path.name}.parts")
        self.complete = -(-total // chunk)
        if cluster.is_main():
            with contextlib.closing(files.AppendOnly(self.path)) as file:
                lines = self.path.read_bytes().split(b"\n")[:-1]
                whole = len(lines) if len(lines) == total else len(lines) // chunk * chunk
                file.truncate(sum(len(line) + 1 for line in lines[:whole]))
        cluster.meet("lines opened")
        self.written = -(-self.count // chunk)
        self._missing = [
            number
            for number in range(self.written, self.complete)
            if not self._part(number).exists()
        ]
        self.scattered = len(self._missing) < self.complete - self.written
        cluster.meet("missing chunks known")

    @property
    def count(self) -> int:
        """Lines in the file."""
        return self.path.read_bytes().count(b"\n")

    def missing(self, *, together: bool = False) -> list[int]:
        """The chunks that this process is to write.

        Args:
            together: all hosts compute every chunk, and the main one writes them.
        """
        return (
            self._missing if together else self._missing[jax.process_index() :: jax.process_count()]
        )

    def append(self, number: int, lines: list[str]) -> None:
        """Adds a chunk; it is with the operating system on return.

        Raises:
            OSError: the disk is full.
        """
        data = "".join(f"{line}\n" for line in lines).encode()
        if not cluster.is_main() or number > self.written:
            files.write_bytes(self._part(number), data)
            return
        self._add(data)
        self._join()

    def gather(self) -> None:
        """Returns when the chunks of all hosts are in the file."""
        cluster.meet("chunks written")
        if cluster.is_main():
            self._join()
        cluster.meet("chunks gathered")
        self.written = self.complete

    def _join(self) -> None:
        """Moves parts to the file as far as none is missing before them."""
        while (part := self._part(self.written)).exists():
            self._add(part.read_bytes())
            part.unlink()
        if self._parts.is_dir() and self.written == self.complete:
            self._parts.rmdir()

    def _add(self, data: bytes) -> None:
        with contextlib.closing(files.AppendOnly(self.path)) as file:
            file.append(data)
        self.written += 1

    def _part(self, number: int) -> pathlib.Path:
        return self._parts / str(number)
