from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

RUN = """
import sys, time
from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.data.pipeline import DataConfig, batches

if __name__ == "__main__":
    config = DataConfig(
        source=sys.argv[1], answer_length=8, max_length=40, batch_size=2, workers=2
    )
    iterator = iter(batches(config, vocabulary.load()))
    for _ in range(4):  # of both workers in turn: they have begun
        next(iterator)
    print("reading", flush=True)
    while True:
        next(iterator)
        time.sleep(0.05)
"""


def _group(leader: int) -> list[int]:
    """The processes of a group that run."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc").is_dir(), reason="lists processes by /proc")
def test_no_process_outlives_a_killed_run(tmp_path: pathlib.Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"question": f"q {n}", "answer": "a"}) + "\n" for n in range(9))
    )
    script = tmp_path / "run.py"
    script.write_text(RUN)
    run = subprocess.Popen(
        [sys.executable, str(script), str(rows)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        assert run.stdout is not None
        assert run.stdout.readline() == "reading\n"
        workers = [process for process in _group(run.pid) if process != run.pid]
        assert len(workers) >= 2
        # Slurm sends SIGTERM to every process; the run needs its workers for the last step.
        for process in workers:
            os.kill(process, signal.SIGTERM)
        time.sleep(1)
        assert set(workers) <= set(_group(run.pid))
        run.kill()
        end = time.monotonic() + 15
        while _group(run.pid) and time.monotonic() < end:
            time.sleep(0.1)
        assert _group(run.pid) == []
    finally:
        for process in _group(run.pid):
            os.kill(process, signal.SIGKILL)
        run.communicate()
