"""The device mesh: `data` x `fsdp` x `tensor`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh

AXES = ("data", "fsdp", "tensor")
_AXIS_TYPES = (AxisType.Auto,) * len(AXES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices each mesh axis has; at most one axis may be -1, "all the rest".

    Attributes:
        data: copies of the model, each with a slice of the batch.
        fsdp: slices of the batch among which the parameters are split too.
        tensor: slices of the matrices within a layer.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = [getattr(self, axis) for axis in AXES]
        if any(size < 1 and size != -1 for size in sizes):
            raise ValueError(f"mesh {self} has an axis below 1; give 1 or more, or -1 for the rest")
        if sizes.count(-1) > 1:
            raise ValueError(f"mesh {self} has more than one -1; only one axis can take the rest")

    def __str__(self) -> str:
        return " x ".join(f"{axis}={getattr(self, axis)}" for axis in AXES)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with Auto axes over the first devices that `config` asks for.

    Args:
        config: the sizes of the axes.
        devices: what to choose from; all devices of all hosts when None.

    Raises:
        ValueError: the sizes do not fit the devices, or leave some host without a part.
    """
    devices = jax.devices() if devices is None else devices
    sizes = sizes_over(config, len(devices))
    need = math.prod(sizes)
    if need > len(devices):
        raise ValueError(
            f"mesh {config} needs {need} devices, there are {len(devices)}; "
            "make an axis smaller or -1 (all the rest)"
        )
    # With fewer devices than there are, a host could be left out of every computation and wait.
    hosts = {device.process_index for device in devices}
    if need < len(devices) and len(hosts) > 1:
        raise ValueError(
            f"mesh {config} uses {need} of {len(devices)} devices on {len(hosts)} hosts; "
            "use all of them (-1 takes the rest)"
        )
    return jax.make_mesh(sizes, AXES, axis_types=_AXIS_TYPES, devices=devices[:need])


def abstract_mesh(config: MeshConfig, devices: int) -> AbstractMesh:
    """The mesh's shape alone, of any number of devices: enough to say how arrays would be split.

    Args:
        config: the sizes of the axes.
        devices: what an axis of -1 takes the rest of.

    Raises:
        ValueError: the fixed sizes do not divide `devices`, and the rest is asked for.
    """
    return AbstractMesh(tuple(sizes_over(config, devices)), AXES, axis_types=_AXIS_TYPES)


def sizes_over(config: MeshConfig, devices: int) -> list[int]:
    """The sizes of the axes, -1 replaced by the rest of so many devices.

    Raises:
        ValueError: the fixed sizes do not divide `devices`, and the rest is asked for.
    """
    sizes = [getattr(config, axis) for axis in AXES]
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
        if devices % fixed:
            raise ValueError(
                f"mesh {config}: {devices} devices cannot be divided by {fixed}; "
                f"choose sizes whose product divides {devices}"
            )
        sizes[sizes.index(-1)] = devices // fixed
    return sizes
