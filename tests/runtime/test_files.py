from __future__ import annotations

import errno
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from cd4lm_jax.runtime import files
from tests.conftest import ROOT
from tests.disk import full_beyond


def entries(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_and_replaced(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "new" / "a.txt"
    files.write_text(target, "één\n")
    files.write_text(target, "twee\n")
    assert target.read_bytes() == b"twee\n"
    assert entries(target.parent) == ["a.txt"]


def test_failed_block_leaves_the_earlier_file_alone(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "a.png"
    files.write_bytes(target, b"earlier")
    with pytest.raises(ZeroDivisionError), files.atomic_path(target) as path:
        path.write_bytes(b"half")
        assert path.suffix == ".png"
        assert target.read_bytes() == b"earlier"
        raise ZeroDivisionError
    assert target.read_bytes() == b"earlier"
    assert entries(tmp_path) == ["a.png"]


def test_full_disk_is_an_os_error_that_names_the_target(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "a.txt"
    files.write_text(target, "earlier")
    with full_beyond(100), pytest.raises(OSError, match=r"a\.txt") as raised:
        files.write_text(target, "x" * 1000)
    assert raised.value.errno == errno.EFBIG
    assert raised.value.filename == str(target)
    assert target.read_text() == "earlier"
    assert entries(tmp_path) == ["a.txt"]


def test_block_that_writes_nothing_is_an_error_about_the_target(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, files.atomic_path(tmp_path / "a.txt"):
        pass
    assert raised.value.filename == str(tmp_path / "a.txt")


@pytest.fixture(params=["exchanged", "in two steps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As a local disk replaces a folder, and as NFS does."""
    if request.param == "in two steps":
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_folder_is_replaced_as_a_whole(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "model"
    with files.atomic_folder(target) as folder:
        (folder / "one").write_text("1")
    with files.atomic_folder(target) as folder:
        files.write_text(folder / "deep" / "two", "2")
        (folder.parent / "left behind").write_text("beside the folder")
        assert entries(target) == ["one"]
    assert entries(target) == ["deep"]
    assert entries(tmp_path) == ["model"]


def test_failed_folder_leaves_the_earlier_one_alone(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "model"
    with files.atomic_folder(target) as folder:
        (folder / "one").write_text("1")
    with pytest.raises(KeyError), files.atomic_folder(target) as folder:
        (folder / "two").write_text("2")
        raise KeyError
    assert entries(target) == ["one"]
    assert entries(tmp_path) == ["model"]


def test_earlier_folder_stays_when_the_new_one_cannot_take_its_place(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    with files.atomic_folder(target) as folder:
        (folder / "one").write_text("1")
    replace = os.replace

    def fail_for_new(source: pathlib.Path, destination: pathlib.Path) -> None:
        if source.name == "new":
            raise OSError(errno.EIO, "broken disk")
        replace(source, destination)

    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "replace", fail_for_new)
    with pytest.raises(OSError, match="broken disk"), files.atomic_folder(target) as folder:
        (folder / "two").write_text("2")
    assert entries(target) == ["one"]
    assert entries(tmp_path) == ["model"]


# Replaces a folder and kills itself before the given call to the file system.
KILLED = """
import ctypes, os, shutil, signal, sys
from cd4lm_jax.runtime import files

target, way, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
calls = 0

def counted(function):
    def call(*arguments, **options):
        global calls
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1
        return function(*arguments, **options)
    return call

for module, name in ((os, "replace"), (os, "fsync"), (os, "unlink"), (os, "rmdir"), (os, "mkdir")):
    setattr(module, name, counted(getattr(module, name)))
files._exchange = counted(files._exchange if way == "exchanged" else lambda one, other: False)
with files.atomic_folder(target) as folder:
    (folder / "two").write_text("2")
"""


@pytest.mark.slow
def test_a_folder_survives_a_kill_at_every_step(tmp_path: pathlib.Path, way: str) -> None:
    ends = set()
    for last in range(100):
        output = tmp_path / str(last)
        target = output / "model"
        with files.atomic_folder(target) as folder:
            (folder / "one").write_text("1")
        command = [sys.executable, "-c", KILLED, str(target), way, str(last)]
        code = subprocess.run(command, cwd=ROOT).returncode
        if code == 0:
            break
        assert code == -signal.SIGKILL
        with files.locked(output):  # the next start
            assert entries(output) == [files.LOCK_FILE, "model"]
            (name,) = entries(target)
            assert (target / name).read_text() == {"one": "1", "two": "2"}[name]
            ends.add(name)
    assert last > 5
    assert ends == {"one", "two"}


def test_a_folder_that_stepped_aside_comes_back_before_it_is_replaced(
    tmp_path: pathlib.Path,
) -> None:
    aside = tmp_path / ".earlier-model"
    aside.mkdir()
    (aside / "one").write_text("1")
    with pytest.raises(KeyError), files.atomic_folder(tmp_path / "model"):
        raise KeyError
    assert entries(tmp_path) == ["model"]


def test_folder_over_a_file_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model").write_text("a file")
    with (
        pytest.raises(NotADirectoryError, match="is a file"),
        files.atomic_folder(tmp_path / "model"),
    ):
        pass
    assert (tmp_path / "model").read_text() == "a file"


HOLD = """
import sys
from cd4lm_jax.runtime.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_lock_keeps_others_out_and_dies_with_its_process(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        left = folder / "model" / ".tmp-0a1b2c3d-params"
        left.mkdir(parents=True)
        refused = pytest.raises(files.InUseError, match=f"another run works in {folder}; wait")
        with refused, files.locked(folder):
            pass
        assert left.exists()
        holder.kill()
    with files.locked(folder):
        assert not left.exists()
