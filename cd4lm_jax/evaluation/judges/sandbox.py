"""Runs Python that nobody has read, such as what a model wrote, and comes back.

Each program gets a world of its own, made of Linux namespaces by `sandbox_init`: a root file
system that holds the interpreter, its packages, the system's libraries and an empty temporary
folder, nothing else; no network, not even the loopback; process numbers of its own; an
unprivileged user without capabilities and keyrings; and a filter of system calls
(`sandbox_syscalls`). When the program ends, or its time, everything that it started ends with it.
Where the kernel does not give one of these walls, nothing is run.

What is bounded: `Limits.memory` bounds the memory of all processes of a program together with its
files and output, on every machine and without control groups. The address space of each process is
limited to its share; memory that belongs to no process (System V shared memory, `memfd_create`,
message queues, further file systems) is refused; page tables are measured while it runs. Small
buffers of the kernel (pipes, sockets, threads' stacks) come on top, at most a tenth of 512 MB. Not
bounded are the kernel's caches of what the program reads, which the kernel gives up when memory is
short. What it is not: the kernel itself is reachable through the system calls that remain, as in
any container.
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
import time
from typing import IO, Any, Self

_INIT = str(pathlib.Path(__file__).with_name("sandbox_init.py"))
_READY = b"ready"
# Until the program starts, on however busy a machine; not part of its own time.
_SETUP_SECONDS = 60.0
# All files of the program together, and its standard output and error, in sizes of a file.
_DISK_FILES, _OUTPUT_FILES = 4, 2
# What a Python process needs to start.
_LEAST_MEMORY = 64 << 20
# Enough for ordinary programs; each may be a socket with 200 kB of the kernel's memory.
_OPEN_FILES = 64
# Page tables of an ordinary program take 1/512 of its memory. Single pages spread over the address
# space take up to twice what they hold: such a program is ended.
_TABLES_SHARE = 16
_WATCH_SECONDS = 0.01
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/sandbox",
    "TMPDIR": "/sandbox",
    "LANG": "C.UTF-8",
    # The C library reserves 64 MB of address space for each thread that allocates, else.
    "MALLOC_ARENA_MAX": "1",
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
        cpu_seconds: processor time of each process, all its threads together.
        memory: bytes of all its processes, files and output together.
        file_bytes: size of a file, standard output included; of all files together four times it.
        processes: at once. With 1 it cannot start any; each gets an equal share of the memory.
        threads: at once, where there is one process. Several processes have one thread each.

    Raises:
        ValueError: memory that leaves no room for a Python process.
    """

    wall_seconds: float = 10.0
    cpu_seconds: int = 10
    memory: int = 1 << 30
    file_bytes: int = 16 << 20
    processes: int = 1
    threads: int = 64

    def __post_init__(self) -> None:
        if self.address_bytes < _LEAST_MEMORY:
            raise ValueError(
                f"memory={self.memory} leaves {self.address_bytes} bytes for each of "
                f"{self.processes} processes beside files of file_bytes={self.file_bytes}; "
                f"expected at least {_LEAST_MEMORY} each: give more memory, or smaller files"
            )

    @property
    def address_bytes(self) -> int:
        """Address space of each process, so that all bounds together are `memory`."""
        files = (_DISK_FILES + _OUTPUT_FILES) * self.file_bytes
        return (self.memory - files) // self.processes

    def order(self) -> dict[str, int]:
        """The numbers that `sandbox_init` sets."""
        return {
            "processes": self.processes,
            "tasks": self.threads if self.processes == 1 else self.processes,
            "address_bytes": self.address_bytes,
            "cpu_seconds": self.cpu_seconds,
            "file_bytes": self.file_bytes,
            "disk_bytes": _DISK_FILES * self.file_bytes,
            "open_files": _OPEN_FILES,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a program ended.

    Attributes:
        exit_code: its own, 128 + the signal that ended it, or None where it was ended: its time
            was over, or the kernel's memory for it grew too large.
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
    with Running(program, limits) as running:
        return running.wait()


class Running:
    """A program that was started in a sandbox; leaving the context ends it.

    Several can run side by side. A program with a channel, the number of an open file of this
    process such as one end of a socket pair, has it as `__channel__`.
    """

    def __init__(self, program: str, limits: Limits = Limits(), channel: int | None = None) -> None:
        """Starts it.

        Raises:
            SandboxError: this is no Linux.
        """
        if sys.platform != "linux":
            raise SandboxError(
                f"generated code is confined by namespaces of Linux, and this is {sys.platform}; "
                "run it on Linux, or in a container of it"
            )
        self._limits = limits
        with contextlib.ExitStack() as stack:
            # Files, not pipes: a file's size is limited, and nobody has to read along.
            order, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
            said = {"program": program, "limits": limits.order(), "channel": channel}
            order.write(json.dumps(said).encode())
            order.seek(0)
            reader, writer = os.pipe()
            self._ready_pipe = stack.enter_context(open(reader, "rb", buffering=0))
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-B", _INIT, str(writer)],
                    stdin=order,
                    stdout=out,
                    stderr=err,
                    cwd="/",
                    env=_ENVIRONMENT,
                    pass_fds=(writer,) if channel is None else (writer, channel),
                    start_new_session=True,
                )
            finally:
                os.close(writer)
            self._out, self._err = out, err
            self._files = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._files.close()

    def ready(self) -> None:
        """Waits until the program itself starts.

        Raises:
            SandboxError: no sandbox could be made here; the program was not run.
        """
        said = _hear(self._ready_pipe)
        if said == _READY:
            return
        self._end()
        why = said.decode(errors="replace") or _text(self._err).strip()[-200:] or "it did not start"
        raise SandboxError(
            f"this machine cannot confine generated code, so none was run ({why}); give the "
            "process the right to make user, mount, process and network namespaces and to filter "
            "system calls, in a container by CAP_SYS_ADMIN or a seccomp profile that allows "
            "unshare and mount"
        )

    def wait(self) -> Outcome:
        """Waits for the program's start, and its end or that of its time.

        Raises:
            SandboxError: no sandbox could be made here; the program was not run.
        """
        self.ready()
        exit_code = self._watch()
        self._end()
        return Outcome(exit_code=exit_code, stdout=_text(self._out), stderr=_text(self._err))

    def _watch(self) -> int | None:
        deadline = time.monotonic() + self._limits.wall_seconds
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(min(left, _WATCH_SECONDS))
            if _table_bytes(self._process.pid) * _TABLES_SHARE > self._limits.memory:
                return None
        return None

    def _end(self) -> None:
        if self._process.returncode is None:
            # This reaches the first process of the namespace too; the kernel ends the others.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _table_bytes(pid: int) -> int:
    """Page tables of a process and all its descendants; 0 where the kernel does not say."""
    total, pids = 0, [pid]
    while pids:
        folder = f"/proc/{pids.pop()}"
        with contextlib.suppress(OSError):
            status = pathlib.Path(folder, "status").read_text()
            total += sum(
                int(line.split()[1]) << 10
                for line in status.splitlines()
                if line.startswith("VmPTE:")
            )
            for thread in os.listdir(f"{folder}/task"):
                children = pathlib.Path(folder, "task", thread, "children").read_text()
                pids += [int(child) for child in children.split()]
    return total


def _hear(pipe: io.FileIO) -> bytes:
    """That the program starts now, or why it does not; nothing if nothing comes."""
    if not select.select([pipe], [], [], _SETUP_SECONDS)[0]:
        return b""
    return pipe.read(1000) or b""


def _text(file: IO[Any]) -> str:
    file.seek(0)
    text: str = file.read().decode(errors="replace")
    return text
