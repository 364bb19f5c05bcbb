"""How a model runs: precision, quantisation, the mesh, and the form of its program."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from cd4lm_jax.models.config import ModelConfig, check_dtype
from cd4lm_jax.models.quantization import Mode
from cd4lm_jax.models.transformer import Execution
from cd4lm_jax.runtime.mesh import AXES, MeshConfig, make_mesh, sizes_over

UNROLLED_LAYERS = 8
"""The deepest model whose decode unrolls its layers, unless asked otherwise or on a TPU."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """How a model runs, as opposed to what it computes.

    Attributes:
        dtype: of weights and computation; None for float32 on a CPU, and on an accelerator as the
            weights are stored.
        quantize: what the weights are quantised to; `none` keeps them in `dtype`.
        mesh: devices that share the model and the rows. Where this host has as many, each host runs
            by itself; a larger mesh spans all hosts.
        scan_layers: compile one layer and scan; None scans where there are more than eight, but on
            a TPU, where an unrolled pass is quicker by half and takes twice as long to compile.
    """

    dtype: str | None = None
    quantize: Mode = "none"
    mesh: MeshConfig = MeshConfig()
    scan_layers: bool | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None:
            check_dtype(self.dtype, "dtype")

    @property
    def label(self) -> str:
        """The placement in short; empty for the default one."""
        parts = [f"{axis}={getattr(self.mesh, axis)}" for axis in AXES]
        shown = [part for part in parts if not part.endswith("=1")]
        named = [self.dtype, None if self.quantize == "none" else self.quantize]
        return " ".join([*filter(None, named), *shown])

    def resolved_dtype(self, stored: str) -> str:
        """The dtype that weights of a stored dtype are loaded in."""
        if self.dtype is not None:
            return self.dtype
        return "float32" if jax.default_backend() == "cpu" else stored

    def execution(
        self, config: ModelConfig, dtype: str, *, platform: str | None = None
    ) -> Execution:
        """The form of the program that decodes.

        Unrolled on a TPU, the weights of a layer are read from memory while the one before it is
        computed; within a scan each product waits for its own.

        Args:
            config: of the model.
            dtype: of weights and computation.
            platform: what the program is for, such as `tpu`; None for this process's devices.
        """
        scan = self.scan_layers
        if scan is None:
            platform = platform or jax.default_backend()
            scan = config.num_layers > UNROLLED_LAYERS and platform != "tpu"
        return Execution(dtype=dtype, scan_layers=scan)

    def devices(self) -> Sequence[jax.Device]:
        """What the mesh is made of: the devices of this host, or all where these are too few."""
        mine = jax.local_devices()
        sizes = [getattr(self.mesh, axis) for axis in AXES]
        fixed = math.prod(size for size in sizes if size != -1)
        return mine if fixed <= len(mine) else jax.devices()

    def make_mesh(self, config: ModelConfig) -> Mesh | None:
        """The mesh; None for a single device.

        Raises:
            ValueError: sizes that do not fit the devices, or do not divide the model.
        """
        devices = self.devices()
        self.check(config, len(devices))
        if math.prod(sizes_over(self.mesh, len(devices))) == 1:
            return None
        return make_mesh(self.mesh, devices)

    def check(self, config: ModelConfig, devices: int) -> None:
        """Raises ValueError where the mesh does not divide a model among so many devices.

        Args:
            config: of the model.
            devices: what an axis of -1 takes the rest of.
        """
        _, fsdp, tensor = sizes_over(self.mesh, devices)
        divided = {
            "tensor": (tensor, ("num_heads", "num_kv_heads", "mlp_dim", "vocab_size")),
            "fsdp": (fsdp, ("embed_dim",)),
        }
        for axis, (size, names) in divided.items():
            for name in names:
                if getattr(config, name) % size:
                    raise ValueError(
                        f"mesh.{axis}={size} does not divide the model's {name}="
                        f"{getattr(config, name)}; give a divisor of it"
                    )
