"""Masks, losses and updates are those of one device on any mesh, in one part or several."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def runs() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize("name", ["eight", "eight in parts"])
def test_eight_devices_compute_what_one_does(
    name: str, runs: dict[str, Any], run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    if not runs:
        done = run_python("-m", "tests.distillation.on_meshes", devices=8)
        assert done.returncode == 0, done.stderr
        runs |= json.loads(done.stdout)
    one, other = runs["one"], runs[name]
    assert one["split"] != other["split"]  # the parameters really are split
    assert other["masks"] == one["masks"]
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-5)
    for leaf, values in one["parameters"].items():
        # Adam divides by the gradient's size, so rounding moves what hardly has a gradient.
        np.testing.assert_allclose(
            other["parameters"][leaf], values, atol=3e-4, rtol=1e-3, err_msg=leaf
        )
