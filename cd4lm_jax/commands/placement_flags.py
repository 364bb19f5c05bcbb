"""The flags of a placement, one for each field of `Placement`, for commands that run a model."""

from __future__ import annotations

from cd4lm_jax.checkpoints.loading import load_config, stored_dtype
from cd4lm_jax.commands import precision_flags
from cd4lm_jax.models.placement import Placement
from cd4lm_jax.runtime import devices
from cd4lm_jax.settings import flags as derived

_LAYOUT = derived.define(Placement, leave_out=("dtype", "quantize"), module=__name__)


def chosen(base: Placement | None = None) -> Placement:
    """The placement that the flags ask for.

    Args:
        base: what it is without them; the defaults if None.

    Raises:
        ValueError: values that are none, or do not fit each other.
    """
    return _LAYOUT.chosen(precision_flags.PRECISION.chosen(base))


def announce(folder: str, placement: Placement, base: str | None = None) -> None:
    """Prints what a model of a folder runs on: devices, dtype, parameters, mesh.

    Args:
        folder: of the model.
        placement: how it runs.
        base: of adapters, see `cd.load`.

    Raises:
        ValueError: no model there, or a mesh that does not fit the devices or the model.
    """
    config = load_config(folder, base)
    devices.available()  # first, so that a platform that is not there is said so
    dtype = placement.dtype or placement.resolved_dtype(stored_dtype(folder, base))
    named = dtype if placement.quantize == "none" else f"{dtype}, {placement.quantize} weights"
    devices.announce(
        dtype=named,
        parameters=config.num_parameters,
        mesh=placement.make_mesh(config),
        remedy="--mesh.data=-1",
    )
