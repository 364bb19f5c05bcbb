"""Commit rules that share the passes of a block out by a plan, as published samplers do."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from cd4lm_jax.decoding.rule import Proposal, check_bounds, rule
from cd4lm_jax.decoding.rules import FixedStep


@rule(name="block_diffusion")
@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockDiffusion:
    """Every token above a threshold, and in each pass its share (SDAR, 2510.06303; LLaDA2).

    The positions of a block are shared out among its passes, the remainder to the first ones. A
    pass commits what is above the threshold if that is at least its share, else the share.

    Attributes:
        threshold: probability of a token, 0 to 1, that must be exceeded.
        denoising_steps: most passes of a block, or with several blocks open of the generation; 0
            for one token a pass at least.
    """

    threshold: float = 0.9
    denoising_steps: int = 0

    def __post_init__(self) -> None:
        check_bounds("threshold", self.threshold, 0.0, 1.0, "a probability")
        check_bounds("denoising_steps", self.denoising_steps, 0, None, "a number of passes")

    def check(self, gen_length: int, block_length: int) -> None:
        """Raises ValueError where a pass would have no token."""
        if self.denoising_steps > block_length:
            raise ValueError(
                f"denoising_steps={self.denoising_steps} leaves passes of a block of "
                f"{block_length} positions without a token; give at most {block_length}"
            )

    def score(self, proposal: Proposal) -> jax.Array:
        """By confidence."""
        return proposal.confidence

    def qualifies(self, proposal: Proposal) -> jax.Array:
        """Eligible positions above the threshold."""
        return proposal.eligible & (proposal.confidence > self.threshold)

    def count(self, proposal: Proposal) -> jax.Array:
        """What is above the threshold, or the share of this pass if that is more."""
        steps, size = jnp.asarray(self.denoising_steps), proposal.block_length
        steps = jnp.where(steps > 0, steps, size)
        share = size // steps + (proposal.step < size % steps)
        return jnp.maximum(self.qualifies(proposal).sum(axis=1), share)


@rule(name="dream")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DreamSchedule:
    """Dream's sampler: a timestep schedule says how many, `by` says which (2508.15487).

    Timesteps fall evenly from 1 to `eps`; the pass from `t` to `s` commits the share `1 - s / t` of
    what is masked, the last one the rest. A pass to which Dream gives no token commits one here.

    Attributes:
        steps: passes for the whole generation, a multiple of its blocks; 0 for one token a pass.
        by: what ranks positions: `confidence` (Dream's `maskgit_plus`), `margin` (`topk_margin`) or
            `entropy`.
        alg_temp: temperature of the draw of positions; 0 takes the best.
        eps: the last timestep.
    """

    steps: int = 0
    by: Literal["confidence", "margin", "entropy"] = "entropy"
    alg_temp: float = 0.0
    eps: float = 1e-3

    def __post_init__(self) -> None:
        check_bounds("steps", self.steps, 0, None, "a number of passes")
        check_bounds("alg_temp", self.alg_temp, 0.0, None, "a temperature")
        check_bounds("eps", self.eps, 0.0, 1.0, "a timestep")
        if self.by not in ("confidence", "margin", "entropy"):
            raise ValueError(f"by={self.by!r}; give confidence, margin or entropy")

    def check(self, gen_length: int, block_length: int) -> None:
        """As for `FixedStep`."""
        FixedStep(steps=self.steps).check(gen_length, block_length)

    def score(self, proposal: Proposal) -> jax.Array:
        """By confidence, margin or entropy, drawn where there is a temperature (Gumbel top-k)."""
        best = {
            "confidence": proposal.confidence,
            "margin": proposal.margin,
            "entropy": proposal.neg_entropy,
        }[self.by]
        gumbel = -jnp.log(-jnp.log(jnp.maximum(proposal.noise, jnp.finfo(jnp.float32).tiny)))
        warm = jnp.asarray(self.alg_temp) > 0
        return jnp.where(warm, best / jnp.where(warm, self.alg_temp, 1.0) + gumbel, best)

    def count(self, proposal: Proposal) -> jax.Array:
        """The share of this pass of what is eligible; the last pass takes all."""
        size, blocks = proposal.block_length, proposal.num_blocks
        steps = FixedStep(steps=self.steps).passes(size, blocks)
        now, then = (
            1.0 - (1.0 - self.eps) * at / steps for at in (proposal.step, proposal.step + 1)
        )
        left = proposal.eligible.sum(axis=1)
        share = jnp.floor(left * (1.0 - then / now)).astype(jnp.int32)
        return jnp.where(proposal.step < steps - 1, share, left)
