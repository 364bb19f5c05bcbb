"""The logical axes of a model's parameters, which a mesh's rules split."""

from __future__ import annotations

from cd4lm_jax.models.block import LOGICAL_AXES
from cd4lm_jax.models.quantization import is_part

_LOGICAL_AXES: dict[str, tuple[str | None, ...]] = {
    "embedding": ("vocab", "embed"),
    "head": ("embed", "vocab"),
    "norm": ("norm",),
    **{name: ("layers", *axes) for name, axes in LOGICAL_AXES.items()},
}


def logical_axes(name: str) -> tuple[str | None, ...]:
    """Logical axes of a parameter, or of an optimizer moment of it, by its dotted name.

    What is no parameter (a step counter) is replicated: it has no axes. The scales of a quantised
    kernel are on every device along its inputs: there may be fewer groups than devices.
    """
    parent, _, last = name.rpartition(".")
    if is_part(name):
        *layers, fan_in, fan_out = logical_axes(parent)
        return (*layers, fan_in if last == "values" else None, fan_out)
    return _LOGICAL_AXES.get(last, ())
