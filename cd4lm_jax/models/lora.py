"""Low-rank adapters (LoRA, Hu et al., 2106.09685) on the linear layers of the blocks.

The base does not change, so a teacher that is the student's start can share it. Adapters are a
tree of their own: it is what is trained, what the optimizer has moments of and what checkpoints
contain. A kernel with an adapter multiplies like an array, so blocks need no code for it; no
merged copy is made, and under `lax.scan` each layer takes its own factors.

Why not qwix: it finds weights by identity while it traces flax layers and adds the factors to the
module it is in, which plain trees with layers stacked under `lax.scan` do not have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from cd4lm_jax.models import axes, quantization
from cd4lm_jax.models.layers import Kernel
from cd4lm_jax.models.quantization import QuantizedKernel
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.runtime.sharding import LogicalAxes
from cd4lm_jax.runtime.trees import leaf_name
from cd4lm_jax.settings.choices import nearest

if TYPE_CHECKING:
    from jaxtyping import Float

TARGETS = ("query", "key", "value", "attention_out", "gate", "up", "down")
"""All linear layers of a block."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which kernels are adapted, and by how much.

    Attributes:
        rank: inner size of the two factors.
        alpha: the product of the factors is scaled by `alpha / rank`.
        targets: names of kernels of the blocks.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise ValueError(
                f"lora.rank={self.rank} and lora.alpha={self.alpha}; give a rank of 1 or more and "
                "an alpha above 0"
            )
        if not self.targets:
            raise ValueError(f"lora.targets is empty; name some of {', '.join(TARGETS)}")
        for name in self.targets:
            if name not in TARGETS:
                raise ValueError(
                    f"lora.targets: no linear layer {name!r} in a block; "
                    f"{nearest(name, list(TARGETS))}"
                )

    @property
    def scale(self) -> float:
        """What the product of the factors is scaled by."""
        return self.alpha / self.rank


class Adapter(NamedTuple):
    """The two factors of one kernel in every layer.

    Attributes:
        lora_a: `[layers, fan_in, rank]`.
        lora_b: `[layers, rank, fan_out]`.
    """

    lora_a: Float[jax.Array, "layers fan_in rank"]
    lora_b: Float[jax.Array, "layers rank fan_out"]


Adapters = dict[str, Adapter]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdaptedKernel:
    """`kernel + scale * a @ b`, which a linear layer multiplies by without forming the sum.

    Attributes:
        kernel: `[fan_in, fan_out]`, an array or a quantised one; in a stack, with a leading axis
            of layers.
        a: `[fan_in, rank]`, likewise.
        b: `[rank, fan_out]`, likewise.
        scale: of the product; static.
    """

    kernel: Kernel
    a: Float[jax.Array, "*layers fan_in rank"]
    b: Float[jax.Array, "*layers rank fan_out"]
    scale: float = dataclasses.field(metadata={"static": True})

    def __getitem__(self, key: Any) -> AdaptedKernel:
        return jax.tree.map(lambda array: array[key], self)

    def __rmatmul__(self, x: Float[jax.Array, "rows fan_in"]) -> Float[jax.Array, "rows fan_out"]:
        return x @ self.kernel + self.scale * ((x @ self.a) @ self.b)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the kernel."""
        return self.kernel.shape

    def astype(self, dtype: Any) -> AdaptedKernel:
        """All three factors in `dtype`."""
        a, b = self.a.astype(dtype), self.b.astype(dtype)
        return AdaptedKernel(self.kernel.astype(dtype), a, b, self.scale)


def create(config: LoraConfig, base: Transformer, key: jax.Array) -> Adapters:
    """Fresh float32 adapters, of no effect: the second factor is zero.

    Args:
        config: which kernels, what rank.
        base: the model to adapt; only its shapes are used.
        key: draws the first factor.

    Raises:
        ValueError: a target that the blocks of this model do not have.
    """
    kernels = {leaf_name(path): kernel for path, kernel in _kernels(base)}
    for name in config.targets:
        if f"blocks.{name}" not in kernels:
            raise ValueError(
                f"lora.targets: {name!r} is no linear layer of this model, whose MLPs are experts; "
                "name those of attention: query, key, value, attention_out"
            )
    adapters = {}
    for name, drawn in zip(config.targets, jax.random.split(key, len(config.targets)), strict=True):
        layers, fan_in, fan_out = kernels[f"blocks.{name}"].shape
        a = jax.random.normal(drawn, (layers, fan_in, config.rank)) * fan_in**-0.5
        adapters[name] = Adapter(a, jnp.zeros((layers, config.rank, fan_out)))
    return adapters


def attach(config: LoraConfig, base: Transformer, adapters: Adapters) -> Transformer:
    """`base` with adapters attached; no array is copied or computed."""

    def adapted(kernel: Kernel, adapter: Adapter) -> AdaptedKernel:
        return AdaptedKernel(kernel, adapter.lora_a, adapter.lora_b, config.scale)

    return _map_kernels(adapted, base, adapters)


def merge(
    config: LoraConfig, base: Transformer, adapters: Adapters, dtype: str = "float32"
) -> Transformer:
    """An ordinary model that computes what `base` with its adapters does.

    Args:
        config: of the adapters.
        base: may be quantised.
        adapters: of it.
        dtype: of the model; kernels are added up in float32, one after the other.
    """

    def merged(path: Any, leaf: Any) -> jax.Array:
        group, _, name = leaf_name(path).rpartition(".")
        kernel = quantization.dequantize(leaf).astype(jnp.float32)
        if group == "blocks" and name in adapters:
            adapter = adapters[name]
            kernel = kernel + config.scale * (adapter.lora_a @ adapter.lora_b)
        return kernel.astype(dtype)

    return jax.tree_util.tree_map_with_path(merged, base, is_leaf=_is_quantized)


def _map_kernels(
    change: Callable[[Any, Adapter], Any], base: Transformer, adapters: Adapters
) -> Transformer:
    def of(path: Any, leaf: Any) -> Any:
        group, _, name = leaf_name(path).rpartition(".")
        return change(leaf, adapters[name]) if group == "blocks" and name in adapters else leaf

    return jax.tree_util.tree_map_with_path(of, base, is_leaf=_is_quantized)


def _kernels(base: Transformer) -> list[tuple[Any, Any]]:
    """Arrays and quantised kernels, with their paths."""
    return jax.tree_util.tree_leaves_with_path(base, is_leaf=_is_quantized)


def _is_quantized(node: object) -> bool:
    return isinstance(node, QuantizedKernel)


def logical_axes(name: str) -> LogicalAxes:
    """Logical axes of a factor, of any other parameter, or of a moment of one, by dotted name."""
    parent, _, factor = name.rpartition(".")
    if factor not in Adapter._fields:
        return axes.logical_axes(name)
    layers, fan_in, fan_out = axes.logical_axes(parent)
    return (layers, fan_in, None) if factor == "lora_a" else (layers, None, fan_out)
