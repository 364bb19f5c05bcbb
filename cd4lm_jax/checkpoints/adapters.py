"""Published adapters as they are added to the kernels of a model that is read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from cd4lm_jax.checkpoints.safetensors_files import Stored


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeftAdapters:
    """The adapters in a folder, checked against the architecture of their base.

    Attributes:
        factors: by parameter of ours and layer (None where it is not stacked): the tensors A
            `[rank, fan_in]` and B `[fan_out, rank]`, and what their product is scaled by.
    """

    factors: Mapping[tuple[str, int | None], tuple[Stored, Stored, float]]

    def merged(
        self, parameters: Iterable[tuple[str, jax.Array]]
    ) -> Iterator[tuple[str, jax.Array]]:
        """Parameters by name, each with its adapters added in float32."""
        for name, kernel in parameters:
            for (leaf, layer), (a, b, scale) in self.factors.items():
                if leaf == name:
                    a32, b32 = (_float32(each) for each in (a, b))
                    kernel = _add(kernel, a32, b32, scale, layer)
            yield name, kernel


def _float32(stored: Stored) -> np.ndarray:
    return stored.rows(0, stored.shape[0]).astype(np.float32)


@functools.partial(jax.jit, donate_argnums=0, static_argnames="layer")
def _add(
    kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float, layer: int | None
) -> jax.Array:
    index = ... if layer is None else layer
    product = jnp.dot(a.T, b.T, precision=jax.lax.Precision.HIGHEST)
    changed = kernel[index].astype(jnp.float32) + scale * product
    return kernel.at[index].set(changed.astype(kernel.dtype))
