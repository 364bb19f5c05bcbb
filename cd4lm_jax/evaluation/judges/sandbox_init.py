"""Makes the sandbox from within; a script of the standard library that :mod:`sandbox` starts.

Three processes: this one, which leaves the machine's namespaces; its child, the first process of
the new ones, which builds the file system and waits; and that one's child, which gives up every
right and runs the program. When the first of a process namespace ends, the kernel kills all others
in it: nothing survives, however often it forked or left its session.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import Any, NoReturn

_LIBC = ctypes.CDLL(None, use_errno=True)

# <linux/sched.h>, <linux/mount.h>, <linux/prctl.h>, <linux/capability.h>
_NEW_MOUNTS, _NEW_UTS, _NEW_IPC = 0x00020000, 0x04000000, 0x08000000
_NEW_USER, _NEW_PIDS, _NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_MOUNT_SETATTR = 442  # on every architecture
_AT_RECURSIVE, _AT_FDCWD = 0x8000, -100
_ATTR_RDONLY, _ATTR_NOSUID = 1, 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CAPABILITY_VERSION_3 = 0x20080522

_NOBODY = 65534
_SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
_HOME = "/sandbox"  # empty; what HOME and TMPDIR say
_OPEN_FILES = 256
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


def main() -> None:
    """Reads the order from standard input and runs its program; ends as it ends."""
    said = int(sys.argv[1])
    order = json.load(sys.stdin)
    try:
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        privileged = os.geteuid() == 0
        _leave(privileged)
        if first := os.fork():
            _end_as(first)
        _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
        _call("prctl", _PR_SET_DUMPABLE, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _enter(order["root"], order["limits"]["file_bytes"])
        if program := os.fork():
            _end_as(program)
        _confine(order["limits"], privileged)
    except OSError as error:
        os.write(said, str(error).encode())
        os._exit(1)
    os.write(said, b"ready")
    os.close(said)
    exec(compile(order["program"], "<program>", "exec"), {"__name__": "__main__"})


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


def _enter(root: str, file_bytes: int) -> None:
    """A root file system of the interpreter, the libraries and an empty folder."""
    _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    options = f"size={4 * file_bytes},nr_inodes=16384,mode=755"
    _call("mount", b"tmpfs", root.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, options.encode())
    prefixes = (sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix)
    shown: list[str] = []
    for path in (*_SYSTEM, *_DEVICES, *prefixes):
        if os.path.lexists(path) and not any(path == s or path.startswith(s + "/") for s in shown):
            _show(path, root + path)
            shown.append(path)
    # Not /tmp alone: an interpreter may lie there.
    for folder in ("/tmp", _HOME):
        os.makedirs(root + folder, exist_ok=True)
        os.chmod(root + folder, 0o1777)
    os.chdir(root)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _MNT_DETACH)
    os.chdir(_HOME)


def _show(path: str, target: str) -> None:
    """Makes a path of the machine appear in the new root, not to be written to."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
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
    if privileged:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    # The kernel counts processes by user and user namespace, and root's not at all.
    _call("unshare", _NEW_USER)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("capset", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))
    for kind, value in (
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


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
