"""A run that is killed again and again, and what became of it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np

from cd4lm_jax.checkpoints.model_folder import read_model
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.trainer import CHECKPOINTS_FOLDER, MODEL_FOLDER
from cd4lm_jax.settings.config import config_to_json
from tests.conftest import ROOT
from tests.tiny import parameters

_CONFIG = """
import pathlib
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.settings.config import config_from_json

def get_config():
    return config_from_json(TrainConfig, pathlib.Path({json!r}).read_text(), where={json!r})
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of the kills.

    Attributes:
        kills: how many hit a living process.
        recovered: how many of them the next start got over, no complete checkpoint lost.
        bit_exact: whether every run ended with the parameters of the uninterrupted one.
        finished: runs that came to their end.
        at: seconds after the start of each kill.
        latest: the last complete checkpoint at each kill, 0 without any.
    """

    kills: int
    recovered: int
    bit_exact: bool
    finished: int
    at: list[float]
    latest: list[int]


def config_file(config: TrainConfig, folder: pathlib.Path) -> pathlib.Path:
    """Writes these settings as a config file into `folder` (made), for a command to read."""
    folder.mkdir(parents=True, exist_ok=True)
    json, file = folder / "settings.json", folder / "settings.py"
    json.write_text(config_to_json(config))
    file.write_text(_CONFIG.format(json=str(json)))
    return file


def start(
    config: TrainConfig, folder: pathlib.Path, *flags: str, devices: int = 1
) -> subprocess.Popen[str]:
    """Starts `launch.pretrain` of these settings; what it needs lies in `folder` (made)."""
    file = config_file(config, folder)
    return subprocess.Popen(
        [sys.executable, "-m", "launch.pretrain", f"--config={file}", *flags],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def complete_checkpoints(config: TrainConfig) -> list[int]:
    """Steps that have a complete checkpoint, ascending."""
    folder = pathlib.Path(config.output) / CHECKPOINTS_FOLDER
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal())


def exported(config: TrainConfig) -> dict[str, np.ndarray]:
    """Parameters of the model that a run exported."""
    return parameters(read_model(pathlib.Path(config.output) / MODEL_FOLDER))


def kill_repeatedly(
    config: TrainConfig,
    folder: pathlib.Path,
    *,
    kills: int,
    expected: dict[str, np.ndarray],
    seconds: float,
    seed: int,
) -> Outcome:
    """Starts a run over and over, each time killed at a random moment, and compares its end.

    One moment in four lies anywhere in the start of the process; the others follow a new
    checkpoint, whatever the machine's speed, so that runs make headway. A run that ends before
    its moment comes is compared and another one begun.

    Args:
        config: the run; its output is replaced.
        folder: where the runs go.
        kills: how often to kill.
        expected: parameters of the uninterrupted run.
        seconds: how long that took.
        seed: of the moments.
    """
    rng = random.Random(seed)
    at: list[float] = []
    latest: list[int] = []
    recovered = finished = reached = 0
    exact, struck = True, False
    while len(at) < kills or struck:
        here = dataclasses.replace(config, output=str(folder / f"run_{finished}"))
        began = time.monotonic()
        process = start(here, folder)
        if len(at) < kills:
            pause = rng.uniform(0, seconds / 2)
            if rng.random() < 0.75:
                while process.poll() is None and _latest(here) <= reached:
                    time.sleep(0.02)
                pause /= 5
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(pause)
            process.kill()
        _, errors = process.communicate()
        killed = process.returncode == -signal.SIGKILL
        if process.returncode and not killed:
            raise RuntimeError(f"a start after a kill ended with {process.returncode}: {errors}")
        if struck:
            recovered += "damaged" not in errors and _latest(here) >= reached
        struck = killed
        if killed:
            reached = _latest(here)
            at.append(round(time.monotonic() - began, 2))
            latest.append(reached)
        else:
            finished, reached = finished + 1, 0
            leaves = exported(here)
            exact &= leaves.keys() == expected.keys() and all(
                np.array_equal(leaves[name], expected[name]) for name in expected
            )
    return Outcome(len(at), recovered, exact, finished, at, latest)


def _latest(config: TrainConfig) -> int:
    return max(complete_checkpoints(config), default=0)
