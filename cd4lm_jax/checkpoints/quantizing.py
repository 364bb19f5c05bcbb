"""Models that are quantised while they are read: one parameter after the other.

Memory holds the quantised model and one parameter as it was, all of its layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
from jax.sharding import Sharding, SingleDeviceSharding

from cd4lm_jax.models import quantization
from cd4lm_jax.models.quantization import Mode
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.runtime.trees import named_leaves, with_leaves


def placement(leaf: Any) -> Sharding:
    """Where an array goes that a shape with or without a sharding describes."""
    return leaf.sharding or SingleDeviceSharding(jax.local_devices()[0])


def assemble(
    model: Transformer, mode: Mode, parameters: Iterable[tuple[str, jax.Array]]
) -> Transformer:
    """The model of these parameters, quantised as they come.

    Args:
        model: shapes of the quantised model, with shardings or without.
        mode: `none` takes the parameters as they are.
        parameters: by dotted name; each is dropped before the next one is asked for.
    """
    shapes = named_leaves(model)
    return with_leaves(model, dict(_placed(shapes, mode, parameters)))


def _placed(
    shapes: dict[str, Any], mode: Mode, parameters: Iterable[tuple[str, jax.Array]]
) -> Iterator[tuple[str, jax.Array]]:
    for name, array in parameters:
        for part, values in quantization.parts_of(name, array, mode).items():
            yield part, jax.device_put(values, placement(shapes[part]))
        del array
