"""Two hosts, here two processes of two virtual devices, beside one of four."""

from __future__ import annotations

import dataclasses
import pathlib
import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.runtime.mesh import MeshConfig
from cd4lm_jax.runtime.metrics import read_jsonl
from tests import crashes, pens

pytestmark = pytest.mark.slow

TIMEOUT = 10


def two_hosts(config: TrainConfig, folder: pathlib.Path) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("", 0))
        address = f"--coordinator_address=localhost:{free.getsockname()[1]}"
    flags = (address, "--num_processes=2", f"--host_timeout={TIMEOUT}")
    return [
        crashes.start(config, folder, *flags, f"--process_id={host}", devices=2)
        for host in range(2)
    ]


def ended(hosts: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and last line of stderr of each; they must end by themselves."""
    errors = [host.communicate(timeout=120)[1] for host in hosts]
    lines = [(error.strip().splitlines() or [""])[-1] for error in errors]
    return list(zip([host.returncode for host in hosts], lines, strict=True))


def wait_for_checkpoint(config: TrainConfig, after: int, host: subprocess.Popen[str]) -> None:
    while max(crashes.complete_checkpoints(config), default=0) <= after:
        assert host.poll() is None, host.communicate()
        time.sleep(0.05)


def losses(config: TrainConfig) -> dict[int, float]:
    rows = read_jsonl(pathlib.Path(config.output) / "metrics.jsonl")
    return {int(row["step"]): row["loss"] for row in rows if "loss" in row}


def test_two_hosts_train_as_one_and_survive(tmp_path: pathlib.Path) -> None:
    # Parameters split over all four devices, so that no host holds them whole.
    config = dataclasses.replace(
        pens.config(tmp_path), mesh=MeshConfig(fsdp=4), steps=40, eval_every=40, log_every=1
    )
    alone = crashes.start(config, tmp_path, devices=4)
    _, errors = alone.communicate()
    assert alone.returncode == 0, errors
    shared = dataclasses.replace(config, output=str(tmp_path / "shared"), save_every=4)

    # SIGTERM reaches one host: both stop after the same step, save it, and say "try again".
    hosts = two_hosts(shared, tmp_path)
    wait_for_checkpoint(shared, 0, hosts[0])
    hosts[1].terminate()
    (code, message), *others = ended(hosts)
    stopped = crashes.complete_checkpoints(shared)[-1]
    assert code == 75
    assert message == (
        f"SIGTERM: stopped after step {stopped} of 40 and saved; the same command continues"
    )
    assert others == [(75, message)]

    # One host of two devices goes on from there: half the hosts, devices and pieces.
    fewer = dataclasses.replace(shared, mesh=MeshConfig(fsdp=2))
    host = crashes.start(fewer, tmp_path, devices=2)
    wait_for_checkpoint(shared, stopped, host)
    host.terminate()
    assert ended([host])[0][0] == 75
    stopped = crashes.complete_checkpoints(shared)[-1]

    # A host is killed: the other ends within the timeout and says which.
    hosts = two_hosts(shared, tmp_path)
    wait_for_checkpoint(shared, stopped, hosts[0])
    hosts[1].kill()
    began = time.monotonic()
    dead, code_of_dead = ended(hosts), -signal.SIGKILL
    assert time.monotonic() - began < 3 * TIMEOUT
    assert dead == [
        (
            1,
            f"error: host 1 died or cannot be reached: no sign of life for {TIMEOUT} s; start the "
            "same command again, it continues",
        ),
        (code_of_dead, dead[1][1]),
    ]

    # Started again, training goes on, and ends where one host of four devices did.
    assert [code for code, _ in ended(two_hosts(shared, tmp_path))] == [0, 0]
    one, two = losses(config), losses(shared)
    assert list(two) == list(one) == list(range(1, 41))
    np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-4)
    want = crashes.exported(config)
    for name, leaf in crashes.exported(shared).items():
        np.testing.assert_allclose(leaf, want[name], atol=3e-4, rtol=1e-3, err_msg=name)
