"""Programs that try to hold more memory than the sandbox's limit; each prints what it reached."""

from __future__ import annotations

_START = """
import ctypes, mmap, os, socket, struct, sys, time, fcntl
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.shmat.restype = ctypes.c_void_p
libc.shmdt.argtypes = [ctypes.c_void_p]
MEGABYTE, TARGET, reached = 1 << 20, TARGET_BYTES, 0
CHUNK = bytes(8 * MEGABYTE)
"""
_END = """
print(reached, flush=True)
time.sleep(0.3)
"""

ATTACKS: dict[str, str] = {
    "one large array": """
arrays = []
try:
    while reached < TARGET:
        arrays.append(bytearray(b'x') * (8 * MEGABYTE)); reached += 8 * MEGABYTE
except MemoryError: pass
""",
    "System V shared memory": """
while reached < TARGET:
    number = libc.shmget(0, 64 * MEGABYTE, 0o1600)
    if number < 0: break
    where = libc.shmat(number, None, 0)
    ctypes.memset(where, 1, 64 * MEGABYTE)
    libc.shmdt(where)
    reached += 64 * MEGABYTE
""",
    "memfd_create": """
files = []
try:
    while reached < TARGET:
        files.append(os.memfd_create('x'))
        reached += os.write(files[-1], CHUNK)
except OSError: pass
""",
    "memfd_create, mapped and unmapped": """
files = []
try:
    while reached < TARGET:
        files.append(os.memfd_create('x'))
        os.ftruncate(files[-1], 8 * MEGABYTE)
        with mmap.mmap(files[-1], 8 * MEGABYTE) as mapped:
            mapped.write(CHUNK); reached += 8 * MEGABYTE
except OSError: pass
""",
    "files": """
try:
    for folder in ('/sandbox', '/tmp', '/dev/shm', '/', '/dev'):
        number = 0
        while reached < TARGET:
            try:
                with open(f'{folder}/{number}', 'wb') as file: reached += file.write(CHUNK)
            except OSError: break
            number += 1
except OSError: pass
""",
    "a file system in namespaces of its own": """
libc.unshare(0x10000000 | 0x00020000)
libc.mount(b'x', b'/sandbox', b'tmpfs', 0, b'size=4g')
os.chdir('/sandbox')
try:
    for number in range(TARGET // len(CHUNK)):
        with open(str(number), 'wb') as file: reached += file.write(CHUNK)
except OSError: pass
""",
    "many processes": """
children = []
try:
    while reached < TARGET:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            arrays = []
            try:
                while True:
                    arrays.append(bytearray(b'x') * (8 * MEGABYTE)); os.write(writer, b'x')
            except BaseException: arrays.pop() if arrays else None
            os.write(writer, b'.')
            time.sleep(30)
        while os.read(reader, 1) == b'x': reached += 8 * MEGABYTE
except OSError: pass
""",
    "shared memory without a name, by many processes": """
try:
    while reached < TARGET:
        mapped = mmap.mmap(-1, 32 * MEGABYTE); mapped.write(bytes(32 * MEGABYTE))
        reached += 32 * MEGABYTE
        if os.fork(): time.sleep(30)
except (OSError, MemoryError): pass
""",
    "pipes": """
ends = []
try:
    while reached < TARGET:
        reader, writer = os.pipe()
        ends += [reader, writer]
        try: fcntl.fcntl(writer, 1031, MEGABYTE)
        except OSError: pass
        os.set_blocking(writer, False)
        reached += os.write(writer, CHUNK)
except OSError: pass
""",
    "sockets, and those in flight": """
pairs, carrier = [], socket.socketpair()
try:
    while reached < TARGET:
        pair = socket.socketpair()
        for end in pair:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
            end.setblocking(False)
            try:
                while True: reached += end.send(CHUNK[:65536])
            except OSError: pass
        try:
            socket.send_fds(carrier[0], [b'x'], [pair[0].fileno(), pair[1].fileno()])
            for end in pair: end.close()
        except OSError: pairs.append(pair)
except OSError: pass
""",
    "message queues": """
try:
    while reached < TARGET:
        queue = libc.msgget(0, 0o1600)
        if queue < 0: break
        message = struct.pack('q', 1) + bytes(8000)
        while libc.msgsnd(queue, message, 8000, 0o4000) == 0: reached += 8000
except OSError: pass
""",
    "pages pinned in pipes": """
ends, huge = [], 2 * MEGABYTE
try:
    while reached < TARGET:
        reader, writer = os.pipe()
        ends += [reader, writer]
        for _ in range(16):
            area = libc.mmap(None, 2 * huge, 3, 0x22, -1, 0)
            start = (area + huge - 1) // huge * huge
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(huge), 14)
            ctypes.memset(start, 1, huge)
            vector = struct.pack('PP', start, 4096)
            if libc.vmsplice(writer, vector, 1, 0) > 0: reached += huge
            libc.munmap(area, 2 * huge)
        if not reached: break
except OSError: pass
""",
    "file locks": """
file = open('locks', 'wb')
end = time.monotonic() + 2
try:
    number = 1 << 40
    while reached < TARGET and time.monotonic() < end:
        number -= 2
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
except OSError: pass
""",
    "page tables": """
number = 0
while reached < TARGET:
    # Each page a gigabyte from the next needs two pages of tables for itself.
    where = libc.mmap((number + 64) << 30, 4096, 3, 0x100022, -1, 0)
    if where in (None, 2 ** 64 - 1): break
    ctypes.memset(where, 1, 1)
    number += 1
    reached += 12288
    if number == 64000: break
""",
    "page tables, left over by large mappings": """
size, number = 64 * MEGABYTE, 0
while number < 1900:
    where = libc.mmap(None, size, 3, 0x4022, -1, 0)
    if where in (None, 2 ** 64 - 1): break
    for page in range(where, where + size, 2 * MEGABYTE):
        ctypes.memset(page, 1, 1)
        libc.munmap(page + 4096, 2 * MEGABYTE - 4096)
        reached += 8192
    number += 1
""",
    "asynchronous input and output": """
for _ in range(200):
    context = ctypes.c_ulong(0)
    if libc.syscall(206, 60000, ctypes.byref(context)) < 0: break
    reached += 60000 * 32
""",
}


def program(name: str, target: int) -> str:
    """The program of an attack that stops by itself at `target` bytes."""
    return _START.replace("TARGET_BYTES", str(target)) + ATTACKS[name] + _END
