"""Accelerators that need not be there: what a chip has, and devices to compile for.

`memory` of a TPU is what its compiler lets one program have (it says so where one asks for too
much; libtpu 0.0.52); of a GPU, the nominal size less 10 %, since the driver, CUDA kernels and the
allocator take their part. `flops` are dense bfloat16, `bandwidth` is that of the HBM, `link`
what a chip sends at most over all its links to others, in one direction.

Sources: Google Cloud's pages of TPU v4, v5e, v5p and v6e (peak, HBM, interchip interconnect); "How
to Scale Your Model" (jax-ml.github.io/scaling-book), chapter 2; NVIDIA's data sheets of T4, L4,
A10G, A100, H100 SXM, H200 and HGX B200, and its paper on the Ada architecture (RTX 4090, summed in
float32). A T4 has no bfloat16, its rate is that of float16. Cards without NVLink have a PCIe slot
of 16 lanes. `clock` is the peak over the FLOPs that the matrix units of a chip do in a cycle
(4 units of 128 x 128 in v5e, 8 in v4 and v5p, 4 of 256 x 256 in v6e).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
from typing import Any

import jax

from cd4lm_jax.settings.choices import nearest

GIB = 2**30


class TopologyError(ValueError):
    """No such chip or topology, or nothing to compile for it with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator.

    Attributes:
        name: as people type it.
        memory: bytes that a program may have.
        flops: bfloat16 a second.
        bandwidth: bytes a second from and to memory.
        link: bytes a second sent to other chips.
        clock: cycles a second of the compiler's estimates; 0 where it makes none (GPUs).
        options: further settings for libtpu, beside the topology.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    link: float
    clock: float = 0.0
    options: tuple[tuple[str, Any], ...] = ()


def _gpu(name: str, gigabytes: float, flops: float, bandwidth: float, link: float) -> Chip:
    return Chip(name=name, memory=0.9e9 * gigabytes, flops=flops, bandwidth=bandwidth, link=link)


TPUS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            memory=30.75 * GIB,
            flops=275e12,
            bandwidth=1.2e12,
            link=300e9,
            clock=1.05e9,
            options=(("chip_config_name", "megacore"),),
        ),
        Chip(
            name="v5e",
            memory=15.75 * GIB,
            flops=197e12,
            bandwidth=0.82e12,
            link=200e9,
            clock=1.5e9,
        ),
        Chip(
            name="v5p",
            memory=95.73 * GIB,
            flops=459e12,
            bandwidth=2.77e12,
            link=600e9,
            clock=1.75e9,
        ),
        Chip(
            name="v6e",
            memory=31.24 * GIB,
            flops=918e12,
            bandwidth=1.64e12,
            link=448e9,
            clock=1.75e9,
        ),
    )
}

GPUS = {
    chip.name: chip
    for chip in (
        _gpu("t4", 16, 65e12, 0.32e12, 16e9),
        _gpu("l4", 24, 121e12, 0.3e12, 32e9),
        _gpu("a10g", 24, 70e12, 0.6e12, 32e9),
        _gpu("rtx4090", 24, 165e12, 1.008e12, 32e9),
        _gpu("a100-40gb", 40, 312e12, 1.56e12, 300e9),
        _gpu("a100-80gb", 80, 312e12, 2.04e12, 300e9),
        _gpu("h100", 80, 989e12, 3.35e12, 450e9),
        _gpu("h200", 141, 989e12, 4.8e12, 450e9),
        _gpu("b200", 180, 2250e12, 7.7e12, 900e9),
    )
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """So many chips of a kind.

    Attributes:
        chip: what each is.
        shape: of a TPU slice, such as `4x4`; None for GPUs.
        count: how many chips.
    """

    chip: Chip
    shape: str | None
    count: int

    def __str__(self) -> str:
        return (
            f"{self.chip.name}:{self.shape}" if self.shape else f"{self.count} x {self.chip.name}"
        )

    @classmethod
    def tpu(cls, name: str) -> Topology:
        """A TPU slice, such as `v5e:4x4`.

        Raises:
            TopologyError: an unknown chip or no shape.
        """
        kind, _, shape = name.partition(":")
        if kind not in TPUS:
            raise TopologyError(f"no TPU {kind!r} in {name!r}; {nearest(kind, list(TPUS))}")
        if not re.fullmatch(r"\d+x\d+(x\d+)?", shape):
            raise TopologyError(
                f"topology {name!r} has no shape; give chips along each axis, such as {kind}:2x4"
            )
        return cls(chip=TPUS[kind], shape=shape, count=math.prod(map(int, shape.split("x"))))

    @classmethod
    def gpu(cls, count: int, name: str) -> Topology:
        """GPUs of one kind in one machine.

        Raises:
            TopologyError: an unknown GPU, or none of it.
        """
        if name not in GPUS:
            raise TopologyError(f"no GPU {name!r}; {nearest(name, list(GPUS))}")
        if count < 1:
            raise TopologyError(f"{count} GPUs; give 1 or more")
        return cls(chip=GPUS[name], shape=None, count=count)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that have to be set before jax starts, for `devices`."""
        if self.shape is None:
            flags = f"--xla_force_host_platform_device_count={self.count}"
            return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        return {
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",  # there is no machine to ask about
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nor a chip to share
            "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any; it warns of an unknown one
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_STDERR_LOG_LEVEL": "3",
            "TPU_MIN_LOG_LEVEL": "3",
        }

    def devices(self) -> list[jax.Device]:
        """What to compile for: the TPU slice as libtpu describes it; for GPUs virtual CPU devices.

        jax must have started with `environment`.

        Raises:
            TopologyError: libtpu is missing or knows no such slice, or there are too few devices.
        """
        if self.shape is None:
            if jax.device_count() < self.count:
                raise TopologyError(
                    f"{self} need as many virtual devices, there are {jax.device_count()}; start "
                    f"with XLA_FLAGS=--xla_force_host_platform_device_count={self.count}"
                )
            return jax.devices()[: self.count]
        if importlib.util.find_spec("libtpu") is None:
            raise TopologyError(
                f"compiling for {self} needs libtpu, which is not installed; "
                "pip install '.[tpu]', best in an environment of its own"
            )
        # Imported where it is needed: it is experimental and of no use on a device.
        from jax.experimental import topologies

        try:
            described = topologies.get_topology_desc(
                platform="tpu",
                topology_name=f"{self.chip.name}:{self.shape}",
                **dict(self.chip.options),
                **({"chips_per_host_bounds": (1, 1, 1)} if self.count == 1 else {}),
            )
        except Exception as error:  # libtpu's own, of several kinds
            reason = str(error).splitlines()[0]
            raise TopologyError(
                f"libtpu knows no slice {self} ({reason}); give one that is sold, such as "
                f"{self.chip.name}:{'2x2x1' if self.chip.name in ('v4', 'v5p') else '2x4'}"
            ) from error
        return list(described.devices)
