"""The sandbox alone makes no right program wrong."""

from __future__ import annotations

import pytest

from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.evaluation.judges import code, sandbox


@pytest.fixture(scope="module", autouse=True)
def _confined() -> None:
    try:
        sandbox.run("pass")
    except sandbox.SandboxError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "program",
    [
        # Eight threads that allocate, compute and wait for each other.
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    sums = list(pool.map(lambda n: sum(bytearray(n << 20)), range(8)))\n",
        "import threading\n"
        "barrier = threading.Barrier(33)\n"
        "threads = [threading.Thread(target=barrier.wait) for _ in range(32)]\n"
        "for thread in threads: thread.start()\n"
        "barrier.wait()\n"
        "for thread in threads: thread.join()\n",
        "from multiprocessing.pool import ThreadPool\n"
        "with ThreadPool(8) as pool: assert pool.map(abs, [-1, 2]) == [1, 2]\n",
        "import asyncio\n"
        "async def work(): await asyncio.to_thread(sum, [1]); await asyncio.sleep(0.01)\n"
        "asyncio.run(work())\n",
        "import sqlite3\n"
        "with sqlite3.connect('file.db') as base: base.execute('create table t (a)')\n"
        "assert sqlite3.connect('file.db').execute('select * from t').fetchall() == []\n",
        "import numpy as np; a = np.ones((500, 500)); assert (a @ a).sum() == 500 ** 3",
        "import tempfile, shutil\n"
        "folder = tempfile.mkdtemp(); open(folder + '/a', 'w').write('x'); shutil.rmtree(folder)\n",
        "import sys; sys.setrecursionlimit(50_000)\ndef f(n): return n and f(n - 1)\nf(40_000)",
        "import fcntl\n"
        "with open('a', 'w') as file: fcntl.lockf(file, fcntl.LOCK_EX); fcntl.flock(file, 2)\n",
        "from multiprocessing import Lock, shared_memory\nwith Lock(): pass\n",
        "import subprocess, time, datetime, zoneinfo, decimal, locale, ctypes.util\n"
        "print(datetime.datetime.now(zoneinfo.ZoneInfo('UTC')))",
    ],
)
def test_ordinary_programs_run(program: str) -> None:
    outcome = sandbox.run(program)
    assert outcome.exit_code == 0, outcome


def test_right_code_with_eight_threads_is_right() -> None:
    answer = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "import threading\n"
        "barrier = threading.Barrier(8)\n"
        "def part(n):\n"
        "    barrier.wait()\n"
        "    return sum(bytearray(b'\\1') * (n << 20)) >> 20\n"
        "def total(numbers):\n"
        "    with ThreadPoolExecutor(8) as pool: return sum(pool.map(part, numbers))\n"
    )
    target = "assert total(range(8)) == 28"
    assert code.is_correct(answer, Problem(id="", question="", answer="", target=target))
