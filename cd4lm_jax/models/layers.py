"""The parts of a block that hold no parameters: linear, RMSNorm, rotary embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@runtime_checkable
class Kernel(Protocol):
    """What a linear layer multiplies by: an array, or an object that multiplies like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(fan_in, fan_out)`."""

    def astype(self, dtype: Any) -> Any:
        """The kernel in another dtype."""

    def __rmatmul__(self, x: Any) -> Any:
        """`x @ kernel` of `x [rows, fan_in]`."""


def linear(
    x: Float[jax.Array, "*batch fan_in"],
    kernel: Kernel,
    bias: Float[jax.Array, " fan_out"] | None = None,
) -> Float[jax.Array, "*batch fan_out"]:
    """`x @ kernel + bias` in the dtype of `x`.

    The leading axes are flattened first: XLA on CPU reaches about twice the rate on one
    rank-2 matmul that it does on a rank-3 one, and elsewhere the reshape is free.

    Args:
        x: `[..., fan_in]`.
        kernel: `[fan_in, fan_out]`.
        bias: `[fan_out]`.
    """
    flat = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
    if bias is not None:
        flat = flat + bias.astype(x.dtype)
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


def rms_norm(
    x: Float[jax.Array, "*batch embed"], scale: Float[jax.Array, " embed"], eps: float
) -> Float[jax.Array, "*batch embed"]:
    """RMSNorm of the last axis, computed in float32, cast back, then scaled (LLaDA's order)."""
    x32 = x.astype(jnp.float32)
    normed = x32 * lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return normed.astype(x.dtype) * scale.astype(x.dtype)


def rotary_angles(
    positions: Int[jax.Array, "batch length"], rotary_dim: int, theta: float
) -> tuple[Float[jax.Array, "batch length pairs"], Float[jax.Array, "batch length pairs"]]:
    """Cosine and sine of the rotary angles, `[batch, length, rotary_dim / 2]`.

    Both are float32 whatever the model computes in: bfloat16 rounds position 257 to 256.

    Args:
        positions: `[batch, length]`.
        rotary_dim: dimensions of a head that are rotated, even.
        theta: base of the wavelengths.
    """
    wavelengths = theta ** (jnp.arange(0, rotary_dim, 2, dtype=jnp.float32) / rotary_dim)
    angles = positions.astype(jnp.float32)[..., None] / wavelengths
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[jax.Array, "batch length heads head_dim"],
    cos: Float[jax.Array, "batch length pairs"],
    sin: Float[jax.Array, "batch length pairs"],
) -> Float[jax.Array, "batch length heads head_dim"]:
    """Rotary embedding of a head's first dimensions, "rotate-half" pairing (2104.09864).

    What the angles leave over of the head stays as it is.

    Args:
        x: queries or keys, `[batch, length, heads, head_dim]`.
        cos: `[batch, length, rotary_dim / 2]`, from `rotary_angles`.
        sin: likewise.
    """
    pairs = cos.shape[-1]
    first, second, rest = jnp.split(x.astype(jnp.float32), [pairs, 2 * pairs], axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    turned = [first * cos - second * sin, second * cos + first * sin, rest]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
