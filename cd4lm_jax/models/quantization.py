"""Weights in 8 or 4 bits: what is read from memory for every pass is a half or a quarter.

Only weights are quantised, symmetrically: the kernels of the blocks and of the head. Embedding,
norms and biases stay as they are. `qwix` chooses scales and rounds; what is kept here is what its
`QArray` lacks for this model: `x @ kernel`, layers stacked for `lax.scan`, and two 4-bit numbers
in a byte, which NumPy, orbax and the checksums know no type for.

    int8    a scale for each output channel
    fp8     likewise; float8_e4m3fn
    int4    a scale for each group of 64 inputs of an output channel, in bfloat16

A product casts the numbers to the dtype of `x`, which XLA does while it reads them, and sums in
float32. Scales of channels multiply the result, those of groups the weights.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import qwix
from jax import lax

from cd4lm_jax.runtime.trees import leaf_name
from cd4lm_jax.settings.choices import nearest

if TYPE_CHECKING:
    from jaxtyping import Float, Num

    from cd4lm_jax.models.transformer import Transformer

Mode = Literal["none", "int8", "int4", "fp8"]
MODES = ("none", "int8", "int4", "fp8")

GROUP = 64
"""Inputs that share a scale in int4, or the greatest power of two below it that divides them."""

QUANTIZED = ("query", "key", "value", "attention_out", "gate", "up", "down", "head")
"""Names of the kernels that `quantize` replaces."""

_STORED = {"int8": jnp.int8, "int4": jnp.uint8, "fp8": jnp.float8_e4m3fn}
_NUMBERS = {"int8": jnp.int8, "int4": jnp.int4, "fp8": jnp.float8_e4m3fn}

T = TypeVar("T")


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class QuantizedKernel:
    """A kernel `[fan_in, fan_out]` in 8 or 4 bits, which a linear layer multiplies by.

    Attributes:
        values: `[*layers, fan_in, fan_out]` int8 or float8. In int4 `[*layers, fan_in / 2, fan_out]`
            uint8: of the inputs of a group, the low bits are the first half.
        scales: `[*layers, 1 or groups, fan_out]`.
    """

    values: Num[jax.Array, "*layers stored_in fan_out"]
    scales: Float[jax.Array, "*layers groups fan_out"]

    def tree_flatten_with_keys(self) -> tuple[Any, None]:
        """The two arrays; their keys tell them from attributes of modules, see `leaf_name`."""
        keys = (jax.tree_util.DictKey(field.name) for field in dataclasses.fields(self))
        return tuple(zip(keys, (self.values, self.scales), strict=True)), None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> QuantizedKernel:
        """The inverse."""
        return cls(*children)

    @property
    def packed(self) -> bool:
        """Whether two numbers share a byte."""
        return bool(self.values.dtype == jnp.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the kernel."""
        *layers, stored, fan_out = self.values.shape
        return (*layers, stored * (1 + self.packed), fan_out)

    def __getitem__(self, key: Any) -> QuantizedKernel:
        return jax.tree.map(lambda array: array[key], self)

    def astype(self, dtype: Any) -> QuantizedKernel:
        """The kernel itself: a product is computed in the dtype of the other factor."""
        del dtype
        return self

    def __rmatmul__(self, x: Float[jax.Array, "rows fan_in"]) -> Float[jax.Array, "rows fan_out"]:
        return self.product(x).astype(x.dtype)

    def product(self, x: Float[jax.Array, "rows fan_in"]) -> Float[jax.Array, "rows fan_out"]:
        """`x @ kernel`, `[rows, fan_out]` in float32."""
        dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)
        if not self.packed:
            return dot(x, self.values.astype(x.dtype)) * self.scales.astype(jnp.float32)
        halves = x.reshape(len(x), -1, 2, self._group // 2)
        first, second = (halves[:, :, half].reshape(len(x), -1) for half in range(2))
        low, high = self._halves(x.dtype)
        return dot(first, low) + dot(second, high)

    def dequantized(self, dtype: Any) -> Float[jax.Array, "*layers fan_in fan_out"]:
        """The kernel as an ordinary array."""
        if not self.packed:
            return (self.values.astype(jnp.float32) * self.scales).astype(dtype)
        *layers, _, fan_out = self.shape
        grouped = (*layers, -1, self._group // 2, fan_out)
        halves = [half.reshape(grouped) for half in self._halves(jnp.float32)]
        return jnp.concatenate(halves, axis=-2).reshape(self.shape).astype(dtype)

    @property
    def _group(self) -> int:
        return self.shape[-2] // self.scales.shape[-2]

    def _halves(self, dtype: Any) -> tuple[jax.Array, jax.Array]:
        """The first and the second half of every group, `[*layers, fan_in / 2, fan_out]` each."""
        signed = lax.bitcast_convert_type(self.values, jnp.int8)
        scales = jnp.repeat(self.scales.astype(dtype), self._group // 2, axis=-2)
        low = lax.shift_right_arithmetic(lax.shift_left(signed, jnp.int8(4)), jnp.int8(4))
        high = lax.shift_right_arithmetic(signed, jnp.int8(4))
        return low.astype(dtype) * scales, high.astype(dtype) * scales


def check_mode(mode: str, where: str = "quantize") -> None:
    """Raises ValueError where there is no such mode."""
    if mode not in MODES:
        raise ValueError(f"{where}: no mode {mode!r}; {nearest(mode, list(MODES))}")


def mode_of(dtype: Any) -> Mode:
    """The mode whose numbers are stored in `dtype`; `none` for that of no mode."""
    return next((mode for mode, of in _STORED.items() if of == dtype), "none")  # type: ignore[return-value]


def is_quantized(name: str) -> bool:
    """Whether `quantize` replaces the parameter of this dotted name."""
    return name.rpartition(".")[2] in QUANTIZED and name.startswith(("blocks.", "head"))


def group_of(fan_in: int) -> int:
    """Inputs that share a scale in int4.

    Raises:
        ValueError: an odd number of inputs.
    """
    group = math.gcd(fan_in, GROUP)
    if group < 2:
        raise ValueError(
            f"int4 stores inputs in pairs, and a kernel here has {fan_in}; give quantize=int8"
        )
    return group


@functools.partial(jax.jit, static_argnames="mode")
def quantize_kernel(
    kernel: Float[jax.Array, "*layers fan_in fan_out"], mode: Mode
) -> QuantizedKernel:
    """One kernel, or a stack of them a layer at a time.

    Raises:
        ValueError: as `group_of`.
    """
    if kernel.ndim == 3:
        return lax.map(lambda one: quantize_kernel(one, mode), kernel)
    tiles = {0: group_of(kernel.shape[0])} if mode == "int4" else None
    found = qwix.quantize(
        kernel.astype(jnp.float32), _NUMBERS[mode], channelwise_axes=(1,), tiled_axes=tiles
    )
    if tiles is None:
        return QuantizedKernel(found.qvalue, found.scale)
    bits = lax.bitcast_convert_type(found.qvalue.astype(jnp.int8), jnp.uint8)
    halves = bits.reshape(-1, 2, tiles[0] // 2, kernel.shape[1])
    packed = (halves[:, 0] & 15) | (halves[:, 1] << 4)
    return QuantizedKernel(
        packed.reshape(-1, kernel.shape[1]), found.scale.astype(jnp.bfloat16)
    )


def quantize(model: Transformer, mode: Mode) -> Transformer:
    """The model with its kernels in fewer bits; other parameters are those of `model`.

    Args:
        model: of ordinary arrays. A head that is the embedding stays.
        mode: `none` returns the model itself.

    Raises:
        ValueError: an unknown mode, or an odd number of inputs with int4.
    """
    check_mode(mode)
    if mode == "none":
        return model

    def of(path: Any, leaf: Any) -> Any:
        return quantize_kernel(leaf, mode) if is_quantized(leaf_name(path)) else leaf

    return jax.tree_util.tree_map_with_path(of, model)


def dequantize(tree: T, dtype: str = "float32") -> T:
    """A tree with its quantised kernels as ordinary arrays in `dtype`; the rest as it is."""
    return jax.tree.map(
        lambda node: node.dequantized(dtype) if isinstance(node, QuantizedKernel) else node,
        tree,
        is_leaf=lambda node: isinstance(node, QuantizedKernel),
    )
