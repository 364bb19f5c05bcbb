"""The system calls that a program in the sandbox may not make: a seccomp filter, built by hand.

Limits of a process and the size of its file system bound ordinary memory. What escapes them is
refused here: memory that belongs to no process (System V and POSIX message queues and shared
memory, `memfd_create`, pages pinned by `vmsplice`, enlarged pipes and socket buffers, file locks,
watches), further namespaces, in which a program could mount a file system without a limit, and
parts of the kernel that ordinary programs have no use for (keyrings, BPF, io_uring, performance
counters, tracing, sockets other than Unix and Internet ones).

The standard library alone: `sandbox_init` imports it before the interpreter is confined.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

_X86_64, _AARCH64 = "x86_64", "aarch64"
# <linux/audit.h>: AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64.
_AUDIT = {_X86_64: 0xC000003E, _AARCH64: 0xC00000B7}

# Numbers on x86_64 and aarch64 (<asm/unistd.h>); None where the call does not exist.
REFUSED: dict[str, tuple[int, int | None]] = {
    # Namespaces and mounts.
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    # Memory that belongs to no process.
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "vmsplice": (278, 75),
    "userfaultfd": (323, 282),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "io_setup": (206, 0),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    # Other processes, and memory policies.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    # The kernel itself.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "vhangup": (153, 58),
    "personality": (135, 92),
}
CONDITIONAL: dict[str, tuple[int, int | None]] = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "fork": (57, None),
    "vfork": (58, None),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "setsockopt": (54, 208),
    "fcntl": (72, 25),
}
# Later calls do not exist for the program: nobody has judged them. 456 is `futex_requeue`.
_NEWEST = 456

# <linux/bpf_common.h>: load a word at an offset, compare, test bits, return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_SOL_SOCKET = 1
_BUFFER_SIZES = (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF and the forced ones
# F_SETLK and F_SETLKW succeed without a lock: one process never waits for its own locks, and the
# kernel's memory for them has no limit. SQLite, for one, does not work without them.
_LOCKS = (6, 7)
# F_OFD_SETLK, F_OFD_SETLKW, F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ
_FCNTL_REFUSED = (37, 38, 1024, 1026, 1031)

Instruction = tuple[int, int, int, int]
"""Code, jump where true, jump where false, operand."""


def install(*, one_process: bool) -> None:
    """Filters the system calls of this process and its children, for good.

    Args:
        one_process: refuse to start processes; threads are allowed.

    Raises:
        OSError: this machine's architecture is unknown, or its kernel has no such filters.
    """
    program = build(platform.machine(), one_process=one_process)
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the count, padding, a pointer.
    fprog = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, fprog, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, "seccomp: the kernel takes no filter of system calls")


def build(machine: str, *, one_process: bool) -> list[Instruction]:
    """The filter as instructions of classic BPF.

    Raises:
        OSError: an architecture other than x86_64 and aarch64.
    """
    if machine not in _AUDIT:
        raise OSError(
            errno.ENOSYS,
            f"seccomp: the filter knows x86_64 and aarch64, and this machine is {machine}",
        )
    column = [*_AUDIT].index(machine)
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _AUDIT[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        # Also the calls of the x32 ABI, which begin at 0x40000000.
        *_refuse_if(_AT_LEAST, _NEWEST + 1, errno.ENOSYS),
    ]
    for numbers in REFUSED.values():
        number = numbers[column]
        if number is not None:
            program += _refuse_if(_EQUAL, number, errno.EPERM)
    for name, numbers in CONDITIONAL.items():
        number = numbers[column]
        if number is not None:
            checks = [*_checks(name, one_process), (_RETURN, 0, 0, _ALLOW)]
            program += [(_EQUAL, 0, len(checks), number), *checks]
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def _checks(name: str, one_process: bool) -> list[Instruction]:
    """What decides about a call by its arguments; what none of it refuses is allowed."""
    if name == "clone3":
        # Its flags are in memory, which a filter does not see; the C library falls back to clone.
        return [(_RETURN, 0, 0, _ERROR | errno.ENOSYS)]
    if name in ("fork", "vfork"):
        return [(_RETURN, 0, 0, _ERROR | errno.EAGAIN)] if one_process else []
    if name == "clone":
        checks = [_argument(0), *_refuse_if(_ANY_BIT, _CLONE_NAMESPACES, errno.EPERM)]
        if one_process:
            checks += [(_ANY_BIT, 1, 0, _CLONE_THREAD), (_RETURN, 0, 0, _ERROR | errno.EAGAIN)]
        return checks
    if name in ("socket", "socketpair"):
        known: list[Instruction] = []
        for left, family in enumerate(reversed(_FAMILIES)):
            known.insert(0, (_EQUAL, left + 1, 0, family))
        return [_argument(0), *known, (_RETURN, 0, 0, _ERROR | errno.EAFNOSUPPORT)]
    if name == "setsockopt":
        sizes = [check for size in _BUFFER_SIZES for check in _refuse_if(_EQUAL, size, 0)]
        return [
            _argument(1),
            (_EQUAL, 0, len(sizes) + 1, _SOL_SOCKET),
            _argument(2),
            *sizes,
        ]
    locks = [check for command in _LOCKS for check in _refuse_if(_EQUAL, command, 0)]
    others = [
        check for command in _FCNTL_REFUSED for check in _refuse_if(_EQUAL, command, errno.EINVAL)
    ]
    return [_argument(1), *(locks if one_process else []), *others]


def _argument(position: int) -> Instruction:
    """Loads the lower half of an argument; all that are checked are ints (little-endian)."""
    return (_LOAD, 0, 0, 16 + 8 * position)


def _refuse_if(test: int, operand: int, number: int) -> list[Instruction]:
    """Where the test holds, the call returns an error (0: success, without being made)."""
    return [(test, 0, 1, operand), (_RETURN, 0, 0, _ERROR | number)]
