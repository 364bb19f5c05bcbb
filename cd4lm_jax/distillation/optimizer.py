"""The optimizer: AdamW as published, or Muon, with the schedule of its learning rate."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax import contrib

_ADAMW_UPDATE_RMS = 0.2
"""Root mean square of AdamW's update over its learning rate (Moonlight, section 2.2)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW or Muon with a warm-up and clipping by global norm.

    Attributes:
        algorithm: `adamw` (the published recipe), or `muon` for the kernels of the blocks
            (Jordan et al., 2024) with updates scaled to AdamW's size (Moonlight, 2502.16982), so
            that one learning rate serves both; all else stays with AdamW.
        learning_rate: the peak.
        warmup_steps: updates over which the rate rises from zero to the peak.
        warmup: how it rises. `linear`: in proportion to the update. `logarithmic`: the update n,
            counted from 1, has `log(n - 1) / log(warmup_steps)` of the peak (the published recipe:
            DeepSpeed's WarmupLR by its default), which is half of it after 14 of 200.
        decay_share: the last share of the run, over which the rate falls linearly to zero; 0
            keeps it constant (the published recipe). Until the decay begins, a run does not
            depend on its length. Where it overlaps the warm-up, the smaller rate is applied.
        weight_decay: decoupled, on every parameter, as published.
        clip_norm: global gradient norm above which gradients are scaled down.
        b1, b2: moment decays.
        moments: the dtype of AdamW's. `float32`: 8 bytes a parameter. `bfloat16`: the
            first one in bfloat16, 6 bytes. `factored`: besides, the second one as its row and
            column means (Adafactor, 1804.04235), about 2 bytes; it decays as published there, by
            `1 - step**-0.8`, and updates are clipped to a root mean square of 1.

    Raises:
        ValueError: a number out of its range, or moments that the algorithm does not have.
    """

    algorithm: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 5e-6
    warmup_steps: int = 200
    warmup: Literal["linear", "logarithmic"] = "linear"
    decay_share: float = 0.0
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.999
    moments: Literal["float32", "bfloat16", "factored"] = "float32"

    def __post_init__(self) -> None:
        for name in ("learning_rate", "warmup_steps", "weight_decay"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"optimizer.{name}={value}; give 0 or more")
        if not self.clip_norm > 0:
            raise ValueError(f"optimizer.clip_norm={self.clip_norm}; give a norm above 0")
        if not 0 <= self.decay_share <= 1:
            raise ValueError(f"optimizer.decay_share={self.decay_share}; give a share of 0 to 1")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"optimizer.{name}={getattr(self, name)}; give 0 or more and below 1"
                )
        if self.moments == "factored" and self.algorithm != "adamw":
            raise ValueError(
                f"optimizer.moments=factored is of AdamW; {self.algorithm} has no second moment of "
                "the kernels: give moments=bfloat16, or algorithm=adamw"
            )

    def learning_rate_at(self, total_steps: int) -> optax.Schedule:
        """The schedule over `total_steps` updates, of the update counted from 0.

        The smaller of warm-up and decay: it never jumps.
        """
        decay = round(self.decay_share * total_steps)
        falling = optax.linear_schedule(
            self.learning_rate, 0.0, decay, transition_begin=total_steps - decay
        )
        if not self.warmup_steps:
            return falling
        rising = self._warmup()
        return lambda step: jnp.minimum(rising(step), falling(step))

    def _warmup(self) -> optax.Schedule:
        if self.warmup == "linear":
            return optax.linear_schedule(0.0, self.learning_rate, self.warmup_steps)
        length = max(self.warmup_steps, 2)

        def logarithmic(step: jax.Array | int) -> jax.Array:
            share = jnp.log(jnp.clip(step, 1, length)) / math.log(length)
            return self.learning_rate * jnp.where(jnp.asarray(step) >= length, 1.0, share)

        return logarithmic

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


def updates_applied(optimizer: Any) -> jax.Array:
    """The number of updates that an optimizer state has had, int32: what its schedule follows.

    A skipped update leaves it as it is, so it may lag behind the step.
    """

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    found = filter(is_schedule, jax.tree.leaves(optimizer, is_leaf=is_schedule))
    return next(found).count


def _muon_dimensions(params: Any) -> Any:
    """Which parameters Muon takes: the kernels of the blocks, each layer's by itself."""
    kernel = contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    return jax.tree.map(lambda leaf: kernel if leaf.ndim == 3 else None, params)
