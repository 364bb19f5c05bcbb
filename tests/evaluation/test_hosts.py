"""Two hosts, here two processes of two virtual devices, share what one process would do alone."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from cd4lm_jax import bundled
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

TIMEOUT = 5
CONFIG = """
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.evaluation.benchmark import BenchmarkConfig

def get_config():
    return BenchmarkConfig(
        output={output!r}, model={model!r}, task="gsm_mini", setting="demo", problems=48, chunk=4,
        decode={{"batch_size": 4}},
    )
"""


def start(folder: pathlib.Path, *arguments: str) -> subprocess.Popen[str]:
    """A command on two virtual devices."""
    return subprocess.Popen(
        [sys.executable, "-m", "cd4lm_jax", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "CD4LM_COMPILATION_CACHE": str(folder / "compiled"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def two_hosts(folder: pathlib.Path, *arguments: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("", 0))
        address = f"--coordinator_address=localhost:{free.getsockname()[1]}"
    flags = (*arguments, address, "--num_processes=2", f"--host_timeout={TIMEOUT}")
    return [start(folder, *flags, f"--process_id={host}") for host in range(2)]


def ended(hosts: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and last line of stderr of each; they must end by themselves."""
    errors = [host.communicate(timeout=240)[1] for host in hosts]
    lines = [(error.strip().splitlines() or [""])[-1] for error in errors]
    return list(zip([host.returncode for host in hosts], lines, strict=True))


def evaluate(folder: pathlib.Path, output: str) -> list[str]:
    file = folder / f"{output}.py"
    file.write_text(CONFIG.format(output=str(folder / output), model=bundled.teacher()))
    return ["evaluate", f"--config={file}", "--mesh.data=2"]


def problems(folder: pathlib.Path) -> pathlib.Path:
    return next(folder.glob("runs/*")) / "problems.jsonl"


def test_an_evaluation_of_two_hosts_survives_a_kill_and_is_that_of_one(
    tmp_path: pathlib.Path,
) -> None:
    alone = start(tmp_path, *evaluate(tmp_path, "alone"))
    _, errors = alone.communicate(timeout=240)
    assert alone.returncode == 0, errors
    assert "device: 2 x cpu, float32, 984,192 parameters, mesh data=2 x fsdp=1" in errors

    command = evaluate(tmp_path, "shared")
    for killed in (1, 0):
        hosts = two_hosts(tmp_path, *command)
        before = written(tmp_path / "shared")
        while written(tmp_path / "shared") <= before:
            assert hosts[killed].poll() is None, hosts[killed].communicate()
            time.sleep(0.02)
        hosts[killed].kill()
        found = ended(hosts)
        assert found[killed][0] == -signal.SIGKILL
        code, line = found[1 - killed]
        assert code == 1
        assert line.startswith(f"error: host {killed}")
        assert line.endswith("start the same command again, it continues")

    hosts = two_hosts(tmp_path, *command)
    assert [code for code, _ in ended(hosts)] == [0, 0]
    assert problems(tmp_path / "shared").read_bytes() == problems(tmp_path / "alone").read_bytes()
    (row,) = json.loads((tmp_path / "shared/summary.json").read_text())["rows"]
    (want,) = json.loads((tmp_path / "alone/summary.json").read_text())["rows"]
    assert row["accuracy"] == want["accuracy"]
    assert "tps" not in row  # what several processes shared has no time


def written(folder: pathlib.Path) -> int:
    """Lines on the disk, those of parts included."""
    files = [*folder.glob("runs/*/problems.jsonl"), *folder.glob("runs/*/*.parts/[0-9]*")]
    return sum(file.read_bytes().count(b"\n") for file in files)


def test_a_decode_of_two_hosts_or_of_a_mesh_over_both_is_that_of_one(
    tmp_path: pathlib.Path,
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"id": n, "prompt": f"Amy has {n} pens. She buys 3. How many?"} for n in range(12)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def command(name: str) -> list[str]:
        return [
            *("decode", f"--input={prompts}", f"--output={tmp_path / name}"),
            *("--gen_length=32", "--chunk=4", "--batch_size=4"),
        ]

    alone = start(tmp_path, *command("alone"))
    assert alone.communicate(timeout=240) is not None
    assert alone.returncode == 0
    assert ended(two_hosts(tmp_path, *command("shared")))[0][0] == 0
    assert (tmp_path / "shared").read_bytes() == (tmp_path / "alone").read_bytes()
    assert not (tmp_path / "shared.journal").exists()

    # More devices than a host has: one mesh over both.
    both = ended(two_hosts(tmp_path, *command("mesh"), "--mesh.data=2", "--mesh.tensor=2"))
    assert [code for code, _ in both] == [0, 0], both
    found, want = ((tmp_path / name).read_text().splitlines() for name in ("mesh", "alone"))
    for one, other in zip(map(json.loads, found), map(json.loads, want), strict=True):
        assert (one["generated_ids"], one["nfe"]) == (other["generated_ids"], other["nfe"])
