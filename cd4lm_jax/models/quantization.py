"""Weights in 8 or 4 bits: what is read from memory for every pass is a half or a quarter.

Only weights are quantised, symmetrically: the kernels of the blocks and of the head. Embedding,
norms and biases stay as they are. `qwix` chooses scales and rounds; what is kept here is what its
`QArray` lacks for this model: `x @ kernel`, layers stacked for `lax.scan`, and two 4-bit numbers
in a byte, which NumPy, orbax and the checksums know no type for.

    int8    a scale for each output channel
    fp8     likewise; float8_e4m3fn
    int4    a scale for each group of 32 inputs of an output channel, in bfloat16; the head in int8

A product casts the numbers to the dtype of `x`, which XLA does while it reads them, and sums in
float32. Scales of channels multiply the result, those of groups the weights.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import qwix
from jax import lax

from cd4lm_jax.runtime.trees import leaf_name
from cd4lm_jax.settings.choices import nearest

if TYPE_CHECKING:
    from jaxtyping import Float, Num


Mode = Literal["none", "int8", "int4", "fp8"]
MODES = ("none", "int8", "int4", "fp8")

GROUP = 32
"""Inputs that share a scale in int4, or the greatest power of two below it that divides them."""

QUANTIZED = ("query", "key", "value", "attention_out", "gate", "up", "down", "head")
"""Names of the kernels that `quantize` replaces."""

_TILE_ELEMENTS = 1 << 20
_LEAST_TILE = 32

_STORED: dict[Mode, Any] = {"int8": jnp.int8, "int4": jnp.uint8, "fp8": jnp.float8_e4m3fn}
_NUMBERS: dict[Mode, Any] = {"int8": jnp.int8, "int4": jnp.int4, "fp8": jnp.float8_e4m3fn}

PARTS = (".values", ".scales")

T = TypeVar("T")


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class QuantizedKernel:
    """A kernel `[fan_in, fan_out]` in 8 or 4 bits, which a linear layer multiplies by.

    Attributes:
        values: `[*layers, fan_in, fan_out]` int8 or float8. In int4 `[*layers, fan_in / 2,
            fan_out]` uint8: of the inputs of a group, the low bits are the first half.
        scales: `[*layers, 1 or groups, fan_out]`.
    """

    values: Num[jax.Array, "*layers stored_in fan_out"]
    scales: Float[jax.Array, "*layers groups fan_out"]

    def tree_flatten_with_keys(self) -> tuple[Any, None]:
        """The two arrays; their keys differ from those of modules, see `leaf_name`."""
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
        """`x @ kernel`, `[rows, fan_out]` in float32; differentiable with respect to `x`."""
        return _product(x, self)

    def columns(self, start: jax.Array | int, count: int) -> QuantizedKernel:
        """So many output channels."""
        return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, count, axis=1), self)

    def _times(self, x: jax.Array) -> jax.Array:
        if not self.packed:
            return _dot(x, self.values.astype(x.dtype)) * self.scales.astype(jnp.float32)
        halves = x.reshape(len(x), -1, 2, self._group // 2)
        first, second = (halves[:, :, half].reshape(len(x), -1) for half in range(2))
        low, high = self._halves(x.dtype)
        return _dot(first, low) + _dot(second, high)

    def _transposed_times(self, y: jax.Array, dtype: Any) -> jax.Array:
        """`y @ kernel.T` of float32 `y`, with factors in `dtype`."""
        if not self.packed:
            y = (y * self.scales.astype(jnp.float32)).astype(dtype)
            return _dot(y, self.values.astype(dtype).T)
        halves = [_dot(y.astype(dtype), half.T) for half in self._halves(dtype)]
        grouped = [half.reshape(len(y), -1, self._group // 2) for half in halves]
        return jnp.stack(grouped, axis=2).reshape(len(y), -1)

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


_dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)


# Differentiated by itself, `_times` would keep the kernel in the dtype of x for the backward pass.
@jax.custom_vjp
def _product(x: jax.Array, kernel: QuantizedKernel) -> jax.Array:
    tile = _tile(kernel)

    def in_tiles(x: jax.Array, kernel: QuantizedKernel) -> jax.Array:
        def one(start: jax.Array) -> jax.Array:
            return kernel.columns(start, tile)._times(x)

        tiles = lax.map(one, jnp.arange(0, kernel.shape[1], tile))
        return tiles.swapaxes(0, 1).reshape(len(x), -1)

    whole = QuantizedKernel._times
    return _on_cpu(tile, in_tiles, lambda x, kernel: whole(kernel, x))(x, kernel)


def _forward(x: jax.Array, kernel: QuantizedKernel) -> tuple[jax.Array, Any]:
    return _product(x, kernel), (kernel, jnp.zeros(0, x.dtype))


def _backward(kept: Any, y: jax.Array) -> tuple[jax.Array, None]:
    kernel, like = kept
    tile, dtype = _tile(kernel), like.dtype

    def in_tiles(y: jax.Array, kernel: QuantizedKernel) -> jax.Array:
        def add(total: jax.Array, start: jax.Array) -> tuple[jax.Array, None]:
            part = lax.dynamic_slice_in_dim(y, start, tile, axis=1)
            return total + kernel.columns(start, tile)._transposed_times(part, dtype), None

        zero = jnp.zeros((len(y), kernel.shape[0]), jnp.float32)
        return lax.scan(add, zero, jnp.arange(0, kernel.shape[1], tile))[0]

    def whole(y: jax.Array, kernel: QuantizedKernel) -> jax.Array:
        return kernel._transposed_times(y, dtype)

    return _on_cpu(tile, in_tiles, whole)(y, kernel).astype(dtype), None


_product.defvjp(_forward, _backward)


def _tile(kernel: QuantizedKernel) -> int:
    """Output channels of a tile for `_on_cpu`; 0 for a kernel that is not to be divided."""
    fan_in, fan_out = kernel.shape
    tile = math.gcd(fan_out, 1 << max(0, (_TILE_ELEMENTS // fan_in).bit_length() - 1))
    mesh = jax.sharding.get_abstract_mesh()
    divided = fan_in * fan_out > _TILE_ELEMENTS and tile >= _LEAST_TILE
    return tile if divided and (mesh.empty or mesh.size == 1) else 0


def _on_cpu(tile: int, in_tiles: Any, whole: Any) -> Any:
    """A product in tiles on a CPU, at once elsewhere.

    Accelerators cast a kernel while they read it. XLA's CPU compiler casts it whole beforehand, and
    as it moves that out of a loop over passes, all kernels of a model at once: in float32 four
    times the memory. A tile is cast when its turn comes and stays in the CPU's cache.
    """
    if not tile:
        return whole
    return lambda *operands: lax.platform_dependent(*operands, cpu=in_tiles, default=whole)


def check_mode(mode: str, where: str = "quantize") -> None:
    """Raises ValueError where there is no such mode."""
    if mode not in MODES:
        raise ValueError(f"{where}: no mode {mode!r}; {nearest(mode, list(MODES))}")


def mode_of(dtype: Any) -> Mode:
    """The mode whose numbers are stored in `dtype`; `none` for that of no mode."""
    return next((mode for mode, of in _STORED.items() if of == dtype), "none")


def is_quantized(name: str) -> bool:
    """Whether `quantize` replaces the parameter of this dotted name."""
    return name.rpartition(".")[2] in QUANTIZED and name.startswith(("blocks.", "head"))


def is_part(name: str) -> bool:
    """Whether this is the dotted name of an array of a quantised kernel."""
    return name.endswith(PARTS)


def stored_mode(dtypes: Mapping[str, Any]) -> Mode:
    """How the parameters with these dtypes, by dotted name, are quantised."""
    return mode_of(dtypes.get("blocks.query.values"))


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
    return QuantizedKernel(packed.reshape(-1, kernel.shape[1]), found.scale.astype(jnp.bfloat16))


def quantize(model: T, mode: Mode) -> T:
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
        name = leaf_name(path)
        return quantize_kernel(leaf, mode_for(name, mode)) if is_quantized(name) else leaf

    return jax.tree_util.tree_map_with_path(of, model)


def mode_for(name: str, mode: Mode) -> Mode:
    """The mode of one kernel: in a model in int4 the head is in int8.

    In 4 bits the head alone costs the models of gsm_mini a third of what int4 costs in all
    (divergence of the predicted distribution), and it is a sixteenth of LLaDA-8B.
    """
    return "int8" if mode == "int4" and name == "head" else mode


def parts_of(name: str, kernel: jax.Array, mode: Mode) -> dict[str, jax.Array]:
    """The arrays, by dotted name, that a parameter is in a model quantised so."""
    if mode == "none" or not is_quantized(name):
        return {name: kernel}
    found = quantize_kernel(kernel, mode_for(name, mode))
    return {f"{name}{PARTS[0]}": found.values, f"{name}{PARTS[1]}": found.scales}


def dequantize(tree: T, dtype: str = "float32") -> T:
    """A tree with its quantised kernels as ordinary arrays in `dtype`; the rest as it is."""
    return jax.tree.map(
        lambda node: node.dequantized(dtype) if isinstance(node, QuantizedKernel) else node,
        tree,
        is_leaf=lambda node: isinstance(node, QuantizedKernel),
    )
