from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from cd4lm_jax.runtime import pipes
with pipes.quiet():
    for number in range(100_000):
        print(number)
"""


def test_a_reader_that_leaves_ends_the_process_without_a_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
