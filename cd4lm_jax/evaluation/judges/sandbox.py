"""Runs Python that nobody has read, such as what a model wrote, and comes back.

Each program gets a world of its own, made of Linux namespaces by :mod:`sandbox_init`: a root file
system that holds the interpreter, the system's libraries and an empty temporary folder, nothing
else; no network, not even the loopback; process numbers of its own; an unprivileged user without
capabilities. Limits bound processor time, memory, files, processes and wall clock, and when the
program ends, or its time, everything that it started ends with it. Where the kernel
does not give one of these walls, nothing is run.

What it is not: the kernel itself is reachable through system calls, as in any container. Memory is
bounded for each process, so in all by ``processes`` times ``memory``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
from typing import IO

_INIT = str(pathlib.Path(__file__).with_name("sandbox_init.py"))
_READY = b"ready"
# Until the program starts, on however busy a machine; not part of its own time.
_SETUP_SECONDS = 60.0
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/sandbox",
    "TMPDIR": "/sandbox",
    "LANG": "C.UTF-8",
    # Threads count as processes.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class SandboxError(ValueError):
    """This machine cannot confine a program, so it was not run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may use.

    Attributes:
        wall_seconds: from its start to its end.
        cpu_seconds: processor time of each process.
        memory: bytes of address space of each process.
        file_bytes: size of a file, standard output included; of all files together four times it.
        processes: at once, threads counted.
    """

    wall_seconds: float = 10.0
    cpu_seconds: int = 10
    memory: int = 1 << 30
    file_bytes: int = 16 << 20
    processes: int = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a program ended.

    Attributes:
        exit_code: its own, 128 + the signal that ended it, or None where its time was over.
        stdout, stderr: what it wrote, undecodable bytes replaced.
    """

    exit_code: int | None
    stdout: str
    stderr: str


def run(program: str, limits: Limits = Limits()) -> Outcome:
    """Runs a Python program in a sandbox, without input.

    Raises:
        SandboxError: no sandbox could be made here; the program was not run.
    """
    if sys.platform != "linux":
        raise SandboxError(
            f"generated code is confined by namespaces of Linux, and this is {sys.platform}; run "
            "it on Linux, or in a container of it"
        )
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-"))
        # Files, not pipes: a file's size is limited, and nobody has to read along.
        order, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        told = {"program": program, "root": root, "limits": dataclasses.asdict(limits)}
        order.write(json.dumps(told).encode())
        order.seek(0)
        reader, writer = os.pipe()
        said = stack.enter_context(open(reader, "rb", buffering=0))
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", _INIT, str(writer)],
                stdin=order,
                stdout=out,
                stderr=err,
                cwd="/",
                env=_ENVIRONMENT,
                pass_fds=(writer,),
                start_new_session=True,
            )
        finally:
            os.close(writer)
        try:
            ready = _hear(said)
            exit_code = _wait(process, limits.wall_seconds) if ready == _READY else None
        finally:
            if process.returncode is None:
                # This reaches the first process of the namespace too; the kernel ends the others.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        texts = [_text(file) for file in (out, err)]
    if ready != _READY:
        why = ready.decode(errors="replace") or texts[1].strip()[-200:] or "it did not start"
        raise SandboxError(
            f"this machine cannot confine generated code, so none was run ({why}); give the "
            "process the right to make user, mount, process and network namespaces, in a container "
            "by CAP_SYS_ADMIN or a seccomp profile that allows unshare and mount"
        )
    return Outcome(exit_code=exit_code, stdout=texts[0], stderr=texts[1])


def _hear(said: io.FileIO) -> bytes:
    """That the program starts now, or why it does not; nothing if nothing comes."""
    if not select.select([said], [], [], _SETUP_SECONDS)[0]:
        return b""
    return said.read(1000) or b""


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
