"""The flags of weights: their dtype and what they are quantised to."""

from __future__ import annotations

from cd4lm_jax.models.placement import Placement
from cd4lm_jax.settings import flags as derived

PRECISION = derived.define(Placement, leave_out=("mesh", "scan_layers"), module=__name__)
