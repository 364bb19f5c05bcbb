"""The optimizer: AdamW as published, or Muon, with the schedule of its learning rate."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax import contrib

_ADAMW_UPDATE_RMS = 0.2
"""Root mean square of AdamW's update over its learning rate (Moonlight, section 2.2)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW or Muon with linear warm-up and clipping by global norm.

    Attributes:
        algorithm: `adamw` (the published recipe), or `muon` for the kernels of the blocks
            (Jordan et al., 2024) with updates scaled to AdamW's size (Moonlight, 2502.16982), so
            that one learning rate serves both; all else stays with AdamW.
        learning_rate: the peak.
        warmup_steps: linear from zero.
        decay_share: the last share of the run, over which the rate falls linearly to zero; 0
            keeps it constant (the published recipe). Until the decay begins, a run does not
            depend on its length.
        weight_decay: decoupled, on every parameter, as published.
        clip_norm: global gradient norm above which gradients are scaled down.
        b1, b2: moment decays.
        moments: the dtype of AdamW's. `float32`: 8 bytes a parameter. `bfloat16`: the
            first one in bfloat16, 6 bytes. `factored`: besides, the second one as its row and
            column means (Adafactor, 1804.04235), about 2 bytes; it decays as published there, by
            `1 - step**-0.8`, and updates are clipped to a root mean square of 1.
    """

    algorithm: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 5e-6
    warmup_steps: int = 200
    decay_share: float = 0.0
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.999
    moments: Literal["float32", "bfloat16", "factored"] = "float32"

    def __post_init__(self) -> None:
        if self.moments == "factored" and self.algorithm != "adamw":
            raise ValueError(
                f"optimizer.moments=factored is of AdamW; {self.algorithm} has no second moment of "
                "the kernels: give moments=bfloat16, or algorithm=adamw"
            )

    def learning_rate_at(self, total_steps: int) -> optax.Schedule:
        """The schedule over `total_steps` updates."""
        warmup = min(self.warmup_steps, total_steps)
        decay = round(self.decay_share * total_steps)
        phases = [
            optax.linear_schedule(0.0, self.learning_rate, warmup),
            optax.constant_schedule(self.learning_rate),
            optax.linear_schedule(self.learning_rate, 0.0, decay),
        ]
        return optax.join_schedules(phases, [warmup, total_steps - decay])

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """Clipping, then the algorithm."""
        rate = self.learning_rate_at(total_steps)
        first = None if self.moments == "float32" else jnp.bfloat16
        if self.algorithm == "muon":
            transform = contrib.muon(
                rate,
                weight_decay=self.weight_decay,
                adam_b1=self.b1,
                adam_b2=self.b2,
                adam_weight_decay=self.weight_decay,
                consistent_rms=_ADAMW_UPDATE_RMS,
                muon_weight_dimension_numbers=_muon_dimensions,
                mu_dtype=first,
            )
        elif self.moments == "factored":
            transform = optax.chain(
                optax.scale_by_factored_rms(),
                optax.clip_by_block_rms(1.0),
                optax.ema(self.b1, accumulator_dtype=first),
                optax.add_decayed_weights(self.weight_decay),
                optax.scale_by_learning_rate(rate),
            )
        else:
            transform = optax.adamw(
                rate, b1=self.b1, b2=self.b2, weight_decay=self.weight_decay, mu_dtype=first
            )
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), transform)


def _muon_dimensions(params: Any) -> Any:
    """Which parameters Muon takes: the kernels of the blocks, each layer's by itself."""
    kernel = contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    return jax.tree.map(lambda leaf: kernel if leaf.ndim == 3 else None, params)
