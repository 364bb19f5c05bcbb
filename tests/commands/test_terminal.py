"""A run on a terminal: the bar, and Ctrl-C, which reaches every process of the run."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from cd4lm_jax.distillation.config import TrainConfig
from tests import crashes, pens
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def on_a_terminal(
    config: TrainConfig, folder: pathlib.Path, stop: Callable[[int], object]
) -> tuple[int, str]:
    """Runs launch.pretrain, stops it after a checkpoint; exit code and what the terminal got.

    Args:
        config: the run.
        folder: for its settings.
        stop: called with the terminal's file descriptor.
    """
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [
            # A session of its own with this terminal, so that Ctrl-C goes to it.
            *("setsid", "--ctty", sys.executable),
            "-m",
            "launch.pretrain",
            f"--config={crashes.config_file(config, folder)}",
            f"--compilation_cache={folder / 'compiled'}",
        ],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "TERM": "xterm", "COLUMNS": "120"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    before = len(crashes.complete_checkpoints(config))
    shown, stopped = b"", False
    while True:
        if not stopped and len(crashes.complete_checkpoints(config)) > before:
            stop(terminal)
            stopped = True
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        shown += part
        time.sleep(0.01)
    return process.wait(timeout=60), shown.decode()


def test_ctrl_c_saves_though_workers_of_the_pipeline_get_it_too(tmp_path: pathlib.Path) -> None:
    config = pens.config(tmp_path)
    config = dataclasses.replace(
        config,
        steps=2000,
        eval_every=2000,
        save_every=5,
        data=dataclasses.replace(config.data, workers=1),
    )
    code, shown = on_a_terminal(config, tmp_path, lambda terminal: os.write(terminal, b"\x03"))
    assert code == 130, shown
    assert "Traceback" not in shown
    saved = crashes.complete_checkpoints(config)[-1]
    assert f"SIGINT: stopped after step {saved} of 2000 and saved" in shown
    # The bar: drawn again and again on its line, with steps, loss, rate and time left.
    bar = shown.replace("\x1b[2K", "\n")
    assert re.search(
        r"train \S*.*\d+/2000 .*loss .*steps/s  [\d,]+ tokens/s  ETA \d+:\d\d", _plain(bar)
    )


def _plain(shown: str) -> str:
    """Without colours and movements of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
