"""The commit rules that come with the project; see `cd4lm_jax.decoding.rule` for what a rule is.

All rank along the block axis only. A number outside what its rule names is a ValueError when the
rule is made.

One row with four open positions, and how many of them some rules commit:

>>> confidence = jnp.array([[0.99, 0.6, 0.95, 0.8]])
>>> proposal = Proposal(
...     confidence=confidence,
...     neg_entropy=jnp.log(confidence),
...     margin=2 * confidence - 1,
...     noise=jnp.zeros((1, 4)),
...     eligible=jnp.ones((1, 4), bool),
...     step=jnp.array([0]),
...     block_length=4,
...     num_blocks=1,
... )
>>> rules = FixedStep(steps=4), ConfidenceAdaptive(threshold=0.9), Factor(factor=1.0)
>>> {type(rule).__name__: int(rule.count(proposal)[0]) for rule in rules}
{'FixedStep': 1, 'ConfidenceAdaptive': 2, 'Factor': 3}
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from cd4lm_jax.decoding.rule import Proposal, check_bounds, rule


@rule(name="fixed")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedStep:
    """A fixed number of passes, the most confident tokens first (LLaDA, 2502.09992, algorithm 4).

    Every block gets the same number of passes and shares its positions out among them, the
    remainder to the first ones (LLaDA's, Fast-dLLM's and CD4LM's harness).

    Attributes:
        steps: passes for the whole generation, a multiple of its blocks; 0 for one token a pass.
        two_pass_share: of a block that has exactly two passes, the share that the first commits;
            0.4 in one script of CD4LM.
    """

    steps: int = 0
    two_pass_share: float = 0.5

    def __post_init__(self) -> None:
        check_bounds("steps", self.steps, 0, None, "a number of passes")
        check_bounds("two_pass_share", self.two_pass_share, 0.0, 1.0, "a share of a block")

    def check(self, gen_length: int, block_length: int) -> None:
        """Raises ValueError where blocks cannot share the passes evenly, or a pass has no token."""
        blocks = max(gen_length // block_length, 1)
        if self.steps and (self.steps % blocks or self.steps > gen_length):
            least, most = self.steps // blocks * blocks, (self.steps // blocks + 1) * blocks
            near = [steps for steps in (least, most) if 0 < steps <= gen_length] or [gen_length]
            raise ValueError(
                f"steps={self.steps} cannot be shared out among {blocks} blocks of {block_length} "
                f"positions; give a multiple of {blocks} up to {gen_length}, such as "
                f"{' or '.join(map(str, near))}"
            )

    def label(self, gen_length: int) -> str:
        """Tokens a pass."""
        return f"{gen_length / self.steps:g}" if self.steps else "1"

    def passes(self, block_length: int, num_blocks: int) -> jax.Array:
        """Of a block, int32 `[]`."""
        steps = jnp.asarray(self.steps)
        return jnp.where(steps > 0, jnp.maximum(steps // num_blocks, 1), block_length)

    def score(self, proposal: Proposal) -> jax.Array:
        """By confidence."""
        return proposal.confidence

    def count(self, proposal: Proposal) -> jax.Array:
        """The share of this pass; everything once the passes are used up."""
        size = proposal.block_length
        passes = self.passes(size, proposal.num_blocks)
        share = size // passes + (proposal.step < size % passes)
        # A rounding error above 0.4 in float32 keeps two fifths whole.
        first = jnp.floor(jnp.asarray(self.two_pass_share, jnp.float32) * size).astype(jnp.int32)
        uneven = jnp.where(proposal.step == 0, first, size - first)
        share = jnp.where((passes == 2) & (self.two_pass_share != 0.5), uneven, share)
        return jnp.where(proposal.step < passes, share, size)


@rule(name="random")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomStep(FixedStep):
    """As `FixedStep`, in a random order (LLaDA's random remasking, algorithm 4)."""

    def score(self, proposal: Proposal) -> jax.Array:
        """By chance."""
        return proposal.noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Threshold:
    """Commits every position whose score is at least `threshold`, within bounds."""

    threshold: float
    min_tokens: int = 1
    max_tokens: int = 0

    def score(self, proposal: Proposal) -> jax.Array:
        """`[batch, block]`, compared with the threshold."""
        raise NotImplementedError

    def qualifies(self, proposal: Proposal) -> jax.Array:
        """Eligible positions at or above the threshold."""
        return proposal.eligible & (self.score(proposal) >= self.threshold)

    def count(self, proposal: Proposal) -> jax.Array:
        """The number of qualifying positions, within the bounds."""
        most = jnp.where(jnp.asarray(self.max_tokens) > 0, self.max_tokens, proposal.block_length)
        return jnp.clip(self.qualifies(proposal).sum(axis=1), self.min_tokens, most)

    def _check_bounds(self) -> None:
        least, most = self.min_tokens, self.max_tokens
        check_bounds("min_tokens", least, 1, None, "a number of tokens")
        check_bounds("max_tokens", most, 0, None, "a number of tokens, or 0 for the block's")
        if isinstance(least, int) and isinstance(most, int) and 0 < most < least:
            raise ValueError(
                f"max_tokens={most} is below min_tokens={least}; raise it or lower that"
            )


@rule(name="confidence")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfidenceAdaptive(_Threshold):
    """CAD: every token with at least this confidence, in bounds (CD4LM, 2601.02236, section 3.3).

    Attributes:
        threshold: least probability of a token, 0 to 1.
        min_tokens: committed in a pass whatever their confidence, at least 1.
        max_tokens: committed in a pass at most, not below `min_tokens`; 0 for the block's length.
    """

    threshold: float = 0.95

    def __post_init__(self) -> None:
        check_bounds("threshold", self.threshold, 0.0, 1.0, "a probability")
        self._check_bounds()

    def score(self, proposal: Proposal) -> jax.Array:
        """By confidence."""
        return proposal.confidence


@rule(name="entropy")
@dataclasses.dataclass(frozen=True, kw_only=True)
class NegativeEntropy(_Threshold):
    """Like CAD, with minus the entropy in the place of confidence (published CD4LM code).

    Attributes:
        threshold: least negative entropy, in nats: at most 0.
        min_tokens: committed in a pass whatever their entropy, at least 1.
        max_tokens: committed in a pass at most, not below `min_tokens`; 0 for the block's length.
    """

    threshold: float = -0.3

    def __post_init__(self) -> None:
        check_bounds("threshold", self.threshold, None, 0.0, "a negative entropy in nats")
        self._check_bounds()

    def score(self, proposal: Proposal) -> jax.Array:
        """By negative entropy."""
        return proposal.neg_entropy


@rule(name="margin")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Margin(_Threshold):
    """Like CAD, with the lead over the second best token (Dream's `topk_margin`).

    Attributes:
        threshold: least difference of the two greatest probabilities, 0 to 1.
        min_tokens: committed in a pass whatever their margin, at least 1.
        max_tokens: committed in a pass at most, not below `min_tokens`; 0 for the block's length.
    """

    threshold: float = 0.95

    def __post_init__(self) -> None:
        check_bounds("threshold", self.threshold, 0.0, 1.0, "a difference of probabilities")
        self._check_bounds()

    def score(self, proposal: Proposal) -> jax.Array:
        """By margin."""
        return proposal.margin


@rule(name="factor")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Factor:
    """The most tokens n with `(n + 1) (1 - c_n) < factor` (Fast-dLLM, 2505.22618, section 3.3).

    `c_n` is the n-th greatest confidence: the more are committed at once, the more
    confident all of them must be. One token is always committed.

    Attributes:
        factor: greater commits more; at least 0.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        check_bounds("factor", self.factor, 0.0, None, "a factor")

    def score(self, proposal: Proposal) -> jax.Array:
        """By confidence."""
        return proposal.confidence

    def count(self, proposal: Proposal) -> jax.Array:
        """The greatest n that qualifies; the left side grows with n, so counting finds it."""
        confidence = jnp.where(proposal.eligible, proposal.confidence, -jnp.inf)
        falling = jnp.flip(jnp.sort(confidence, axis=1), axis=1)
        n = jnp.arange(1, falling.shape[1] + 1)
        return ((n + 1) * (1.0 - falling) < self.factor).sum(axis=1)


@rule(name="entropy_bound")
@dataclasses.dataclass(frozen=True, kw_only=True)
class EntropyBounded:
    """Lowest entropy first, while the joint error is bounded (EB-Sampler, 2505.24857, section 3).

    The joint of tokens committed together differs from the product of their marginals by at most
    the sum of their entropies less the greatest; that is kept within `bound`.

    Attributes:
        bound: in nats, at least 0, which commits one token and whatever is certain.
    """

    bound: float = 0.1

    def __post_init__(self) -> None:
        check_bounds("bound", self.bound, 0.0, None, "a bound in nats")

    def score(self, proposal: Proposal) -> jax.Array:
        """By negative entropy."""
        return proposal.neg_entropy

    def count(self, proposal: Proposal) -> jax.Array:
        """How many, from the lowest, keep the sum of the entropies before each within the bound."""
        entropy = jnp.where(proposal.eligible, jnp.maximum(-proposal.neg_entropy, 0.0), jnp.inf)
        rising = jnp.sort(entropy, axis=1)
        # Each is the greatest of those up to it, so the sum without the greatest is exclusive.
        before = jnp.cumsum(jnp.pad(rising, ((0, 0), (1, 0)))[:, :-1], axis=1)
        return ((before <= self.bound) & jnp.isfinite(rising)).sum(axis=1)
