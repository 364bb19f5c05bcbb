from __future__ import annotations

import json
import subprocess
import types
from collections.abc import Callable
from typing import Any

import jax
import pytest
from jax.sharding import AxisType

from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh

ON_EIGHT = """
import json
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
found = []
for sizes in ((1, 1, 1), (2, 2, 2), (-1, 2, 1), (1, -1, 1), (1, 4, 1), (3, -1, 1), (4, 4, 1)):
    try:
        mesh = make_mesh(MeshConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]))
        found.append(list(mesh.shape.values()))
    except ValueError as error:
        found.append(str(error))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_sizes_on_eight_devices(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run_python("-c", ON_EIGHT, devices=8)
    assert json.loads(done.stdout) == [
        [1, 1, 1],
        [2, 2, 2],
        [4, 2, 1],
        [1, 8, 1],
        [1, 4, 1],
        "mesh data=3 x fsdp=-1 x tensor=1: 8 devices cannot be divided by 3; "
        "choose sizes whose product divides 8",
        "mesh data=4 x fsdp=4 x tensor=1 needs 16 devices, there are 8; "
        "make an axis smaller or -1 (all the rest)",
    ]


def test_axes_are_named_and_auto() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_every_host_must_take_part() -> None:
    two: list[Any] = [types.SimpleNamespace(process_index=host) for host in range(2)]
    with pytest.raises(ValueError, match="uses 1 of 2 devices on 2 hosts"):
        make_mesh(MeshConfig(), two)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="axis below 1"):
        MeshConfig(data=0)
    with pytest.raises(ValueError, match="more than one -1"):
        MeshConfig(data=-1, fsdp=-1)
