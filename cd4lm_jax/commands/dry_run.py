"""`--dry_run` of the commands that train: what would run, and how it is split over devices."""

from __future__ import annotations

from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.planning.layout import Array, Layout, layout
from cd4lm_jax.planning.plan import gib
from cd4lm_jax.settings.config import describe


def report(config: TrainConfig, architecture: ModelConfig, *, devices: int) -> str:
    """Settings, parameters, mesh, and every array with what splits it, as lines for a terminal.

    Args:
        config: the run.
        architecture: of its model.
        devices: the number of this machine; a mesh of fixed sizes may be larger.

    Raises:
        ValueError: a mesh that cannot split the batch or some parameter.
    """
    found = layout(config, architecture, devices=devices)
    sizes = found.sizes
    mesh = " x ".join(f"{axis}={size}" for axis, size in found.mesh.items())
    total = sum(sizes.values())
    parts = ", ".join(f"{part} {gib(size)}" for part, size in sizes.items())
    return "\n".join(
        [
            *(f"{name} = {value!r}" for name, _, value in describe(TrainConfig, config)),
            "",
            f"parameters: {found.parameters:,}, trained: {found.trained:,}",
            f"mesh: {mesh}, {found.devices:,} devices; here: {devices:,}",
            "",
            *_table(found),
            "",
            f"a device holds {gib(total)}: {parts}",
            f"{gib(total * found.devices)} on all devices; gradients and activations come on top, "
            "see `cd4lm plan`",
            "dry run: nothing was loaded, trained or written",
        ]
    )


def _table(found: Layout) -> list[str]:
    """A line an array, in columns; the parts one after the other under their names."""
    head = ("", "shape", "dtype", "PartitionSpec", "bytes a device")
    rows = {part: [_cells(array) for array in arrays] for part, arrays in found.parts.items()}
    every = [head, *(row for lines in rows.values() for row in lines)]
    widths = [max(len(row[column]) for row in every) for column in range(len(head))]

    def line(row: tuple[str, ...]) -> str:
        *left, size = row
        cells = [cell.ljust(width) for cell, width in zip(left, widths, strict=False)]
        return "  ".join([*cells, size.rjust(widths[-1])])

    lines = [line(head)]
    for part, cells in rows.items():
        lines += [part, *map(line, cells)]
    return lines


def _cells(array: Array) -> tuple[str, ...]:
    shape = ", ".join(f"{size:,}" for size in array.shape)
    spec = ", ".join(_axes(entry) for entry in array.spec)
    return f"  {array.name}", f"[{shape}]", array.dtype, f"P({spec})", f"{array.size:,.0f}"


def _axes(entry: object) -> str:
    """An entry of a PartitionSpec: nothing, an axis, or several."""
    return "(" + ", ".join(entry) + ")" if isinstance(entry, tuple) else str(entry)
