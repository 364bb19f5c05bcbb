"""Masks, losses and updates are those of one device on any mesh, in one part or several."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> dict[str, Any]:
    done = run_python("-m", "tests.distillation.on_meshes", devices=8)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("learner", ["", "moving ", "adapted, by blocks, "])
@pytest.mark.parametrize("name", ["eight", "eight in parts"])
def test_eight_devices_compute_what_one_does(name: str, learner: str, runs: dict[str, Any]) -> None:
    one, other = runs[f"{learner}one"], runs[f"{learner}{name}"]
    assert one["split"] != other["split"]  # the parameters really are split
    assert (other["masks"], other["shown"]) == (one["masks"], one["shown"])
    # A divergence of two models that are nearly one is a small difference of large terms.
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-5, atol=1e-6)
    for leaf, values in one["parameters"].items():
        # Adam divides by the gradient's size, so rounding moves what hardly has a gradient.
        np.testing.assert_allclose(
            other["parameters"][leaf], values, atol=3e-4, rtol=1e-3, err_msg=leaf
        )


def test_packed_rows_on_eight_devices_are_rows_alone_on_one(runs: dict[str, Any]) -> None:
    one, other = runs["one"], runs["packed eight"]
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-5, atol=1e-6)
    for leaf, values in one["parameters"].items():
        np.testing.assert_allclose(
            other["parameters"][leaf], values, atol=3e-4, rtol=1e-3, err_msg=leaf
        )


@pytest.fixture(scope="module")
def losses(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> dict[str, Any]:
    done = run_python("-m", "tests.distillation.sharded_loss", devices=8)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("mesh", ["tensor", "data and tensor", "all", "fsdp"])
def test_the_loss_of_a_split_vocabulary_is_that_of_one_device(
    mesh: str, losses: dict[str, Any]
) -> None:
    for one, other in zip(losses["one"]["leaves"], losses[mesh]["leaves"], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mesh", ["tensor", "data and tensor", "all"])
def test_nothing_of_the_size_of_a_split_vocabulary_is_gathered(
    mesh: str, losses: dict[str, Any]
) -> None:
    assert not any("1024" in kind for kind in losses[mesh]["gathered"])
    # The same search finds what it looks for where the kernel's width alone is split.
    assert any("1024" in kind for kind in losses["fsdp"]["gathered"])
