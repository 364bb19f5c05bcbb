"""Files and folders that are either complete or not there.

Everything is written beside its target, flushed to the disk and renamed over it, so a reader
(or the next start after a crash) sees the earlier content or the new one and nothing between.
When writing fails, a full disk included, the temporary is removed and the earlier file stays.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator

TEMPORARY_PREFIX = ".tmp-"
EARLIER_PREFIX = ".earlier-"
LOCK_FILE = ".lock"


class InUseError(ValueError):
    """A folder that another process works in.

    Attributes:
        exit_code: of a command; the other process may have ended at the next start.
    """

    exit_code = 1


def _beside(path: pathlib.Path) -> pathlib.Path:
    """A fresh name in the folder of `path`; the suffix stays, for writers that go by it."""
    return path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{path.name}")


def _flush(path: pathlib.Path) -> None:
    """Forces a file or folder to the disk; also where a delayed "disk full" comes to light."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: pathlib.Path) -> None:
    """Forces a folder and all in it to the disk."""
    for entry in [folder, *folder.rglob("*")]:
        _flush(entry)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a temporary path to write to, which becomes `path` when the block ends well.

    Parent folders are created. The temporary has the suffix of `path`.

    Raises:
        OSError: the disk is full, the folder cannot be written, or the block wrote no file;
            `path` is then as it was before.
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, target)
        _flush(target.parent)
    except OSError as error:
        # The user knows the target; a failed write() names no file at all.
        if error.filename in (None, str(temporary), temporary):
            error.filename, error.filename2 = str(target), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields an empty folder to fill, which becomes the folder `path` when the block ends well.

    A folder that was there before is replaced as a whole; until then it stays untouched. A process
    that is killed leaves the earlier folder or the new one. Where the file system cannot exchange
    two names in one step (NFS), the earlier one may for a moment have no other name than
    `.earlier-NAME`; the next `atomic_folder` or `locked` gives it its own back.

    Raises:
        OSError: as `atomic_path`; NotADirectoryError when `path` is a file.
    """
    target = pathlib.Path(path)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target} is a file, a folder was to be written there")
    target.parent.mkdir(parents=True, exist_ok=True)
    _recover(_earlier(target))
    # What the block leaves beside its folder (temporaries of other libraries) goes with `holder`.
    holder = _beside(target)
    fresh = holder / "new"
    fresh.mkdir(parents=True)
    try:
        yield fresh
        flush_tree(fresh)
        if not target.exists():
            os.replace(fresh, target)
        elif not _exchange(fresh, target):
            _replace_in_two_steps(fresh, target)
        _flush(target.parent)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Gives each the name of the other in one step; False where the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    if not rename(here, os.fsencode(one), here, os.fsencode(other), exchange):
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _replace_in_two_steps(fresh: pathlib.Path, target: pathlib.Path) -> None:
    """A folder cannot be renamed over a full one: the earlier steps aside, and back on failure."""
    earlier = _earlier(target)
    os.replace(target, earlier)
    try:
        os.replace(fresh, target)
    finally:
        _recover(earlier)


def _earlier(target: pathlib.Path) -> pathlib.Path:
    return target.with_name(f"{EARLIER_PREFIX}{target.name}")


def _recover(earlier: pathlib.Path) -> None:
    """Gives a folder that stepped aside its name back, or removes it if another has that."""
    if earlier.exists():
        target = earlier.with_name(earlier.name.removeprefix(EARLIER_PREFIX))
        if target.exists():
            shutil.rmtree(earlier)
        else:
            os.replace(earlier, target)


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file without the byte-order mark that some editors put first.

    Raises:
        ValueError: the file is not UTF-8; one line.
        OSError: it cannot be read.
    """
    try:
        return pathlib.Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from None


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path` atomically (see `atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to `path` as UTF-8 atomically (see `atomic_path`)."""
    write_bytes(path, text.encode("utf-8"))


class AppendOnly:
    """A file that only grows; what `append` was given is with the operating system on return."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = pathlib.Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab", buffering=0)

    def cut_after(self, end: bytes) -> None:
        """Removes what follows the last `end`."""
        self.truncate(self._path.read_bytes().rfind(end) + 1)

    def truncate(self, size: int) -> None:
        """Keeps the first bytes alone."""
        self._file.truncate(size)

    def append(self, data: bytes) -> None:
        """Adds to the end.

        Raises:
            OSError: the disk is full.
        """
        rest = memoryview(data)
        try:
            # As a disk fills up, a write first takes a part without an error.
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            error.filename = str(self._path)
            raise

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Holds `folder` (which is created) for this process alone.

    The lock is the system's and ends with the process, however that ends; the file that stays
    means nothing. Temporaries that a killed process left in the folder are removed, and a folder
    that it was replacing has its name again.

    Raises:
        InUseError: another process holds it.
    """
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(
                f"another run works in {folder}; wait until it ends, or give another output"
            ) from None
        for earlier in list(path.rglob(f"{EARLIER_PREFIX}*")):
            _recover(earlier)
        for left in list(path.rglob(f"{TEMPORARY_PREFIX}*")):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        yield
