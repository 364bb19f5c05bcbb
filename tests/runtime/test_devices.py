from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable

import jax
import pytest

from cd4lm_jax.runtime import cluster, devices
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
from tests.conftest import ROOT

RunPython = Callable[..., subprocess.CompletedProcess[str]]


def test_says_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    one = jax.devices()[:1]
    devices.announce()
    devices.announce(dtype="bfloat16", parameters=984_192, mesh=make_mesh(MeshConfig(), one))
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "device: 1 x cpu\n"
        "device: 1 x cpu, bfloat16, 984,192 parameters, mesh data=1 x fsdp=1 x tensor=1\n"
    )


SEVERAL = """
from cd4lm_jax.runtime import devices
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
devices.announce(mesh=make_mesh(MeshConfig(data=2)))
devices.announce(mesh=make_mesh(MeshConfig(data=-1)))
devices.announce()
"""


@pytest.mark.slow
def test_idle_devices_are_warned_of(run_python: RunPython) -> None:
    done = run_python("-c", SEVERAL, devices=4)
    assert done.stderr.splitlines() == [
        "device: 4 x cpu, mesh data=2 x fsdp=1 x tensor=1",
        "warning: 2 of 4 devices used; --config.mesh.data=-1 uses all",
        "device: 4 x cpu, mesh data=4 x fsdp=1 x tensor=1",
        "device: 4 x cpu",
        "warning: 1 of 4 devices used",
    ]


def test_a_gpu_that_jax_cannot_use_is_warned_of(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "_NVIDIA", tmp_path)
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    before = getattr(jax.config, devices._PLATFORMS)
    try:
        jax.config.update("jax_platforms", "")
        devices.announce()
    finally:
        jax.config.update("jax_platforms", before)
    assert "warning: this machine has 2 NVIDIA GPUs that jax cannot use" in capsys.readouterr().err
    devices.announce()  # the CPU was asked for
    assert "warning" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "tpu", "nonsense"])
@pytest.mark.parametrize(
    "command",
    [
        ["decode", "--checkpoint={teacher}", "--input={prompts}", "--output=out.jsonl"],
        ["distill", "--config=gsm_mini", "--config.output=run"],
    ],
)
def test_a_device_that_is_not_there_is_one_line(
    platform: str, command: list[str], tmp_path: pathlib.Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "How many?"}\n')
    teacher = ROOT / "experiments" / "checkpoints" / "gsm_mini_teacher"
    arguments = [part.format(teacher=teacher, prompts=prompts) for part in command]
    done = subprocess.run(
        [sys.executable, "-m", "cd4lm_jax", *arguments],
        cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": platform, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: JAX_PLATFORMS={platform}, and jax cannot use such a device")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("groups", "node", "tasks"), [("1", 0, 1), ("4(x2),1", 1, 4), ("4(x2),1", 2, 1), ("2,3", 1, 3)]
)
def test_tasks_of_a_slurm_node(
    groups: str, node: int, tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster.tasks_of_node() is None
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", groups)
    monkeypatch.setenv("SLURM_NODEID", str(node))
    assert cluster.tasks_of_node() == tasks


ALONE = """
import os, jax
from cd4lm_jax.runtime import cluster
with cluster.joined():
    print(jax.config.values["jax_cuda_visible_devices"], flush=True)
    os.abort()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "visible"), [("1", "all"), ("2", "0")])
def test_a_slurm_task_that_is_alone_on_its_node_takes_all_gpus(tasks: str, visible: str) -> None:
    """jax gives each task one GPU; with one task on a node of four, three would idle."""
    slurm = {
        "JOB_ID": str(os.getpid()),
        "STEP_NODELIST": "localhost",
        "NTASKS": "1",
        "PROCID": "0",
        "LOCALID": "0",
        "NODEID": "0",
        "STEP_TASKS_PER_NODE": tasks,
    }
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        cwd=ROOT,
        env={**os.environ, **{f"SLURM_{name}": value for name, value in slurm.items()}},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{visible}\n", done.stderr
    # An abort that has nothing to do with the other hosts stays one.
    assert done.returncode == -signal.SIGABRT
    assert "host 0" not in done.stderr
