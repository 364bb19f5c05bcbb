"""launch/slurm/distill.sbatch, run by bash with stand-ins of srun and scontrol."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import pytest

from cd4lm_jax.corruption.masking import NestedMasks
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.runtime.mesh import MeshConfig
from tests import crashes, exported, pens
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

SCRIPT = ROOT / "launch" / "slurm" / "distill.sbatch"

# Starts the tasks on this host: Slurm's variables, a log each, SIGTERM handed to every one.
SRUN = """\
#!{python}
import os, pathlib, signal, subprocess, sys

first = next(n for n, word in enumerate(sys.argv) if n and not word.startswith("--"))
options = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:first])
tasks = []
for rank in range(int(os.environ["SLURM_NTASKS"])):
    log = open(options["output"].replace("%t", str(rank)), "a")
    step = dict(SLURM_STEP_NODELIST="localhost", SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank))
    tasks.append(
        subprocess.Popen(sys.argv[first:], env=os.environ | step, stdout=log, stderr=log)
    )
signal.signal(signal.SIGTERM, lambda number, _: [task.send_signal(number) for task in tasks])
pathlib.Path(__file__).with_name("srun.pid").write_text(str(os.getpid()))
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""

SCONTROL = """\
#!/bin/sh
echo "$@" >> "$(dirname "$0")/scontrol.log"
"""


class Slurm:
    """A job and the programs that it finds."""

    def __init__(self, folder: pathlib.Path, srun: str, **environment: str) -> None:
        self.folder, self.job = folder, free_job_id()
        folder.mkdir()
        for name, text in (("srun", srun), ("scontrol", SCONTROL)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "SLURM_JOB_ID": str(self.job),
            "SLURM_NTASKS": "2",
            "SLURM_CPUS_PER_TASK": "1",
            "OUTPUT": str(folder / "run"),
            **environment,
        }

    def start(self, *flags: str) -> subprocess.Popen[str]:
        """Runs the script as Slurm runs it: after a requeue the same way again."""
        return subprocess.Popen(
            ["bash", str(SCRIPT), *flags],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def requeues(self) -> list[str]:
        """What scontrol was asked for."""
        log = self.folder / "scontrol.log"
        return log.read_text().splitlines() if log.exists() else []

    def log(self, rank: int) -> list[str]:
        """Lines of a process's log."""
        file = self.folder / "run" / "logs" / str(self.job) / f"rank-{rank}.log"
        return file.read_text().splitlines()


def free_job_id() -> int:
    """A job whose port, which jax makes of its number, is free on this host."""
    while True:
        job = random.randrange(2**12)
        with socket.socket() as tried:
            try:
                tried.bind(("", 65536 - 2**12 + job))
            except OSError:
                continue
            return job


@pytest.fixture
def config(tmp_path: pathlib.Path) -> TrainConfig:
    """Forty steps of a tiny student, its parameters split over both processes."""
    model = exported.export(tmp_path / "model")
    return dataclasses.replace(
        pens.config(tmp_path),
        output=str(tmp_path / "slurm" / "run"),
        init=model,
        teacher=model,
        corruption=NestedMasks(),
        model=None,
        tokenizer=None,
        mesh=MeshConfig(fsdp=-1),
        steps=40,
        eval_every=40,
        save_every=4,
    )


def test_two_processes_save_at_sigterm_are_requeued_and_finish(
    tmp_path: pathlib.Path, config: TrainConfig
) -> None:
    slurm = Slurm(
        tmp_path / "slurm",
        SRUN.format(python=sys.executable),
        CONFIG=str(crashes.config_file(config, tmp_path)),
        MODEL=str(config.init),
        PYTHON=sys.executable,
        JAX_PLATFORMS="cpu",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )
    # Ahead of the time limit Slurm signals the tasks, not the script.
    script = slurm.start()
    while not crashes.complete_checkpoints(config):
        assert script.poll() is None, (script.communicate()[0], slurm.log(0))
        time.sleep(0.05)
    os.kill(int((slurm.folder / "srun.pid").read_text()), signal.SIGTERM)
    said, _ = script.communicate(timeout=120)
    assert script.returncode == 0
    assert "ended with exit code 75" in said
    assert slurm.requeues() == [f"requeue {slurm.job}"]
    stopped = crashes.complete_checkpoints(config)[-1]
    assert stopped < config.steps
    for rank in range(2):
        assert slurm.log(rank)[-1] == (
            f"SIGTERM: stopped after step {stopped} of 40 and saved; the same command continues"
        )
    assert any((slurm.folder / "run" / "compiled").iterdir())

    # Requeued: the same script goes on, with what was compiled, to the end.
    script = slurm.start()
    said, _ = script.communicate(timeout=240)
    assert (script.returncode, len(slurm.requeues())) == (0, 1), (said, slurm.log(0))
    assert "ended with exit code 0" in said
    assert slurm.log(0)[-1].startswith("validation loss ")
    steps = [line.split()[1] for line in slurm.log(0) if line.startswith("distill ")]
    assert steps[-1] == "40/40"
    assert f"{stopped + 1}/40" in steps  # the first of the second start
    assert crashes.exported(config)


@pytest.mark.parametrize(
    ("code", "requeued"), [(0, False), (1, True), (2, False), (75, True), (130, False), (143, True)]
)
def test_what_is_requeued(tmp_path: pathlib.Path, code: int, requeued: bool) -> None:
    slurm = Slurm(tmp_path / "slurm", f"#!/bin/sh\nexit {code}\n")
    script = slurm.start()
    script.communicate()
    assert script.returncode == (0 if requeued else code)
    assert bool(slurm.requeues()) is requeued


def test_errors_are_tried_again_a_few_times(tmp_path: pathlib.Path) -> None:
    slurm = Slurm(tmp_path / "slurm", "#!/bin/sh\nexit 1\n", MAX_FAILURES="2")
    codes = []
    for _ in range(3):
        script = slurm.start()
        said, _ = script.communicate()
        codes.append(script.returncode)
    assert codes == [0, 0, 1]
    assert len(slurm.requeues()) == 2
    assert "failed more than 2 times" in said


def test_a_cancelled_job_is_not_requeued(tmp_path: pathlib.Path) -> None:
    # scancel ends the script as well as the tasks.
    slurm = Slurm(tmp_path / "slurm", '#!/bin/sh\ntouch "$0.up"\nexec sleep 2\n')
    script = slurm.start()
    while not (slurm.folder / "srun.up").exists():
        time.sleep(0.01)
    script.terminate()
    script.communicate()
    assert script.returncode == -signal.SIGTERM
    assert slurm.requeues() == []


def test_asks_slurm_for_what_it_relies_on() -> None:
    header = [line for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH ")]
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in header)
    # One process a GPU, each of which sees all of its node's.
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert "gpus-per-task" not in options
    # To the processes and not, as with B:, to the script alone.
    name, _, seconds = options["signal"].partition("@")
    assert (name, int(seconds) >= 120) == ("TERM", True)
    assert {"requeue", "open-mode"} <= options.keys()
