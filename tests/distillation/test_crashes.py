"""SIGKILL at random moments; tests/soak_crash.py does the same to gsm_mini, 20 times."""

from __future__ import annotations

import dataclasses
import pathlib
import time

import pytest

from tests import crashes, pens

pytestmark = pytest.mark.slow


def test_killed_runs_end_with_the_uninterrupted_runs_parameters(tmp_path: pathlib.Path) -> None:
    # A checkpoint a step: hardly a moment in which none is being written.
    config = dataclasses.replace(pens.config(tmp_path), save_every=1)
    began = time.monotonic()
    whole = crashes.start(config, tmp_path)
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors
    outcome = crashes.kill_repeatedly(
        config,
        tmp_path,
        kills=3,
        expected=crashes.exported(config),
        seconds=time.monotonic() - began,
        seed=0,
    )
    assert (outcome.kills, outcome.recovered, outcome.bit_exact) == (3, 3, True), outcome
