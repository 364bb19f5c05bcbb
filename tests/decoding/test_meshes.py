"""A decode on any mesh is that of one device: eight virtual devices, in processes of their own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Found = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def found(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> Found:
    def call(*what: str) -> dict[str, Any]:
        done = run_python("-m", "tests.decoding.on_meshes", *what, devices=8)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


@pytest.mark.parametrize("mesh", ["data", "tensor", "all"])
def test_recordings_are_decoded_to_the_token_on_every_mesh(mesh: str, found: Found) -> None:
    decoded = found("golden", mesh)
    assert decoded["wrong"] == []
    assert len(decoded["right"]) == 22


def test_every_cache_guidance_sampling_and_streaming_give_what_one_device_gives(
    found: Found,
) -> None:
    for name, (same, distance) in found("modes").items():
        if name in ("tensor int8", "all int8"):
            # Sums over parts round otherwise. A value between two numbers of int8 may become
            # either, a thousand times what else differs, and that can turn a near tie.
            continue
        assert same, name
        # The split of rows adds no rounding: the bits are those of as many rows on one device. Only
        # `prefix` computes as much of every row as the row needs that is furthest behind.
        exact = name.startswith("data") and name != "data prefix"
        assert distance == 0.0 if exact else distance < 1e-4, name


def test_the_plan_compiles_what_the_command_runs_and_gathers_no_vocabulary(found: Found) -> None:
    programs = found("programs")
    for mesh, program in programs.items():
        assert program["same"]
        assert all(program["same"]), mesh
    assert programs["data"]["moved"] == programs["tensor"]["moved"] == []
    # fsdp splits the head along its width, of which each device has its part of the vocabulary.
    assert all("320" not in each for each in programs["all"]["moved"])
    assert programs["all"]["moved"]  # the same search finds what there is
