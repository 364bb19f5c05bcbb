"""The devices that a command runs on, and the line in which it says so."""

from __future__ import annotations

import math
import os
import pathlib
import sys

import jax
from jax.sharding import Mesh

from cd4lm_jax.runtime import cluster

_PLATFORMS = "jax_platforms"  # the setting behind JAX_PLATFORMS; jax's types do not list it
_NVIDIA = pathlib.Path("/proc/driver/nvidia/gpus")  # a folder for each GPU that the driver knows


class DeviceError(ValueError):
    """The devices that were asked for are not there.

    Attributes:
        exit_code: of a command; another host may have them.
    """

    exit_code = 1


def announce(
    *,
    dtype: str | None = None,
    parameters: int | None = None,
    mesh: Mesh | None = None,
    remedy: str | None = None,
) -> None:
    """Prints to stderr what a command runs on, as the first thing it says.

    Of several processes the first one speaks. Devices that stay idle, and GPUs that jax cannot use,
    are warned of.

    Args:
        dtype: what is computed in, where it is known.
        parameters: of the model, where they are known.
        mesh: what the model is split over; None for a single device.
        remedy: the flag with which the command uses all devices; with a mesh that of training's
            config unless given.

    Raises:
        DeviceError: jax finds no device of the kind that `JAX_PLATFORMS` names.
    """
    devices = available()
    if not cluster.is_main():
        return
    parts = [f"{len(devices)} x {devices[0].device_kind}"]
    if dtype is not None:
        parts.append(dtype)
    if parameters is not None:
        parts.append(f"{parameters:,} parameters")
    if mesh is not None:
        parts.append("mesh " + " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items()))
    used = 1 if mesh is None else math.prod(mesh.shape.values())
    if mesh is None or not mesh.is_multi_process:
        used *= jax.process_count()  # every host has a mesh of its own
    if mesh is not None and remedy is None:
        remedy = "--config.mesh.data=-1"
    lines = [f"device: {', '.join(parts)}", *_warnings(devices, used, remedy)]
    print("\n".join(lines), file=sys.stderr, flush=True)


def available() -> list[jax.Device]:
    """All devices of all processes.

    Raises:
        DeviceError: there is none of the kind that `JAX_PLATFORMS` names.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition(" (set JAX_PLATFORMS")[0] or "its plugin is not installed"
        asked = getattr(jax.config, _PLATFORMS)
        raise DeviceError(
            f"JAX_PLATFORMS={asked}, and jax cannot use such a device here: {reason}; install jax "
            "for it, such as 'cd4lm_jax[cuda]', or set JAX_PLATFORMS=cpu"
        ) from error


def _warnings(devices: list[jax.Device], used: int, remedy: str | None) -> list[str]:
    found = []
    on_cpu = devices[0].platform == "cpu" and getattr(jax.config, _PLATFORMS) != "cpu"
    if on_cpu and (gpus := _gpus()):
        found.append(
            f"warning: this machine has {gpus} NVIDIA GPU{'s' * (gpus > 1)} that jax cannot use; "
            "this runs on the CPU: install 'cd4lm_jax[cuda]', or set JAX_PLATFORMS=cpu"
        )
    if used < len(devices):
        how = "" if remedy is None else f"; {remedy} uses all"
        found.append(f"warning: {used} of {len(devices)} devices used{how}")
    tasks, gpus = cluster.tasks_of_node(), int(os.environ.get("SLURM_GPUS_ON_NODE") or 0)
    if tasks is not None and 1 < tasks < gpus and jax.local_device_count() == 1:
        found.append(
            f"warning: {tasks} tasks use one GPU each of {gpus} on this node; start {gpus} tasks "
            "a node (--ntasks-per-node), or 1, which uses all"
        )
    return found


def _gpus() -> int:
    return len(list(_NVIDIA.iterdir())) if _NVIDIA.is_dir() else 0
