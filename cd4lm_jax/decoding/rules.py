"""Commit rules: which of a block's masked positions a pass makes final.

A rule says how positions rank and how many of the best are committed; the decoder does the rest
(the end-of-sequence gate, the step limit, the guarantee that every pass commits something). An
own rule is a frozen dataclass with these two methods, registered with :func:`rule` so that its
numbers are traced: sweeping a threshold compiles once. All rank along the block axis only. A
number outside what its rule names is a ValueError when the rule is made.

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
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T", bound=type)


class Proposal(NamedTuple):
    """What a pass proposes for the active block of every row.

    Arrays are as long as the block; where the mask token may be proposed, as long as the whole
    generation, and what is out of reach is not eligible.

    Attributes:
        confidence: ``[batch, block]`` float32, probability of the proposed token.
        neg_entropy: ``[batch, block]`` float32, minus the entropy (nats) of the distribution.
        margin: ``[batch, block]`` float32, lead over the second best token's probability.
        noise: ``[batch, block]`` float32, uniform in [0, 1), a row's own.
        eligible: ``[batch, block]`` bool, masked and not held back by the EOS gate.
        step: ``[batch]`` int32, passes already spent in this block.
        block_length: positions of a block.
        num_blocks: blocks of the whole generation.
    """

    confidence: jax.Array
    neg_entropy: jax.Array
    margin: jax.Array
    noise: jax.Array
    eligible: jax.Array
    step: jax.Array
    block_length: int
    num_blocks: int


class CommitRule(Protocol):
    """How a pass chooses what to commit.

    A rule that raises its count to a minimum may also have ``sure(proposal)``, ``[batch, block]``
    bool: what it commits for its own sake (see :func:`surely`).
    """

    def score(self, proposal: Proposal) -> jax.Array:
        """``[batch, block]`` float; higher is committed earlier, ties go to the lower position."""

    def count(self, proposal: Proposal) -> jax.Array:
        """``[batch]`` int32, how many to commit; the decoder raises it to 1 at least."""


def surely(rule: CommitRule, proposal: Proposal) -> jax.Array:
    """``[batch, block]`` bool: what a rule commits for its own sake, not to keep a minimum."""
    sure = getattr(rule, "sure", None)
    return jnp.ones_like(proposal.eligible) if sure is None else sure(proposal)


def rule(cls: T) -> T:
    """Registers a frozen dataclass as a commit rule whose fields are traced numbers.

    To stand above ``@dataclasses.dataclass``.

    Raises:
        TypeError: not a dataclass.
    """
    # Not with `register_dataclass`: to jax (0.10 to 0.12) trees of two such classes are equal where
    # their fields have the same names, and now and then jit (0.10) runs what it compiled for the
    # other class.
    names = [field.name for field in dataclasses.fields(cls)]

    def flatten(rule: Any) -> tuple[list[tuple[Any, Any]], None]:
        return [(jax.tree_util.GetAttrKey(name), getattr(rule, name)) for name in names], None

    def unflatten(_: None, numbers: Iterable[Any]) -> Any:
        return cls(**dict(zip(names, numbers, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls


@rule
@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedStep:
    """A fixed number of passes, the surest tokens first (LLaDA, 2502.09992, algorithm 4).

    A block gets ``steps // num_blocks`` passes and shares its positions out among them, the
    remainder to the first ones; with exactly two passes the shares are 40 % and 60 %, as in the
    published CD4LM code.

    Attributes:
        steps: passes for the whole generation, at least 1; the generation length for one token a
            pass.
    """

    steps: int

    def __post_init__(self) -> None:
        _check("steps", self.steps, 1, None, "a number of passes")

    def passes(self, num_blocks: int) -> jax.Array:
        """Of a block, int32."""
        return jnp.maximum(self.steps // num_blocks, 1)

    def score(self, proposal: Proposal) -> jax.Array:
        """By confidence."""
        return proposal.confidence

    def count(self, proposal: Proposal) -> jax.Array:
        """The share of this pass; everything once the passes are used up."""
        size, passes = proposal.block_length, self.passes(proposal.num_blocks)
        even = size // passes + (proposal.step < size % passes)
        first_of_two = (size * 2) // 5
        uneven = jnp.where(proposal.step == 0, first_of_two, size - first_of_two)
        share = jnp.where(passes == 2, uneven, even)
        return jnp.where(proposal.step < passes, share, size)


@rule
@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomStep(FixedStep):
    """As :class:`FixedStep`, in a random order (LLaDA's random remasking, algorithm 4)."""

    def score(self, proposal: Proposal) -> jax.Array:
        """By chance."""
        return proposal.noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Threshold:
    """Commits every position whose score is at least ``threshold``, within bounds."""

    threshold: float
    min_tokens: int = 1
    max_tokens: int = 32

    def score(self, proposal: Proposal) -> jax.Array:
        """``[batch, block]``, compared with the threshold."""
        raise NotImplementedError

    def sure(self, proposal: Proposal) -> jax.Array:
        """Eligible positions at or above the threshold."""
        return proposal.eligible & (self.score(proposal) >= self.threshold)

    def count(self, proposal: Proposal) -> jax.Array:
        """The number of sure positions, within the bounds."""
        return jnp.clip(self.sure(proposal).sum(axis=1), self.min_tokens, self.max_tokens)

    def _check_bounds(self) -> None:
        least, most = self.min_tokens, self.max_tokens
        _check("min_tokens", least, 1, None, "a number of tokens")
        if isinstance(least, int) and isinstance(most, int) and most < least:
            raise ValueError(
                f"max_tokens={most} is below min_tokens={least}; raise it or lower that"
            )


@rule
@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfidenceAdaptive(_Threshold):
    """CAD: every token at least this sure, within bounds (CD4LM, 2601.02236, section 3.3).

    Attributes:
        threshold: least probability of a token, 0 to 1.
        min_tokens: committed in a pass whatever their confidence, at least 1.
        max_tokens: committed in a pass at most, not below ``min_tokens``.
    """

    def __post_init__(self) -> None:
        _check("threshold", self.threshold, 0.0, 1.0, "a probability")
        self._check_bounds()

    def score(self, proposal: Proposal) -> jax.Array:
        """By confidence."""
        return proposal.confidence


@rule
@dataclasses.dataclass(frozen=True, kw_only=True)
class NegativeEntropy(_Threshold):
    """Like CAD, with minus the entropy in the place of confidence (published CD4LM code).

    Attributes:
        threshold: least negative entropy, in nats: at most 0.
        min_tokens: committed in a pass whatever their entropy, at least 1.
        max_tokens: committed in a pass at most, not below ``min_tokens``.
    """

    threshold: float = -0.3

    def __post_init__(self) -> None:
        _check("threshold", self.threshold, None, 0.0, "a negative entropy in nats")
        self._check_bounds()

    def score(self, proposal: Proposal) -> jax.Array:
        """By negative entropy."""
        return proposal.neg_entropy


@rule
@dataclasses.dataclass(frozen=True, kw_only=True)
class Margin(_Threshold):
    """Like CAD, with the lead over the second best token (Dream's ``topk_margin``).

    Attributes:
        threshold: least difference of the two greatest probabilities, 0 to 1.
        min_tokens: committed in a pass whatever their margin, at least 1.
        max_tokens: committed in a pass at most, not below ``min_tokens``.
    """

    def __post_init__(self) -> None:
        _check("threshold", self.threshold, 0.0, 1.0, "a difference of probabilities")
        self._check_bounds()

    def score(self, proposal: Proposal) -> jax.Array:
        """By margin."""
        return proposal.margin


@rule
@dataclasses.dataclass(frozen=True, kw_only=True)
class Factor:
    """The most tokens n with ``(n + 1) (1 - c_n) < factor`` (Fast-dLLM, 2505.22618, section 3.3).

    ``c_n`` is the n-th greatest confidence: the more are committed at once, the surer all of them
    must be. One token is always committed.

    Attributes:
        factor: greater commits more; at least 0.
    """

    factor: float

    def __post_init__(self) -> None:
        _check("factor", self.factor, 0.0, None, "a factor")

    def score(self, proposal: Proposal) -> jax.Array:
        """By confidence."""
        return proposal.confidence

    def count(self, proposal: Proposal) -> jax.Array:
        """The greatest n that qualifies; the left side grows with n, so counting finds it."""
        confidence = jnp.where(proposal.eligible, proposal.confidence, -jnp.inf)
        falling = jnp.flip(jnp.sort(confidence, axis=1), axis=1)
        n = jnp.arange(1, falling.shape[1] + 1)
        return ((n + 1) * (1.0 - falling) < self.factor).sum(axis=1)


@rule
@dataclasses.dataclass(frozen=True, kw_only=True)
class EntropyBounded:
    """Surest first, while what could go wrong stays bounded (EB-Sampler, 2505.24857, section 3).

    The joint of tokens committed together differs from the product of their marginals by at most
    the sum of their entropies less the greatest; that is kept within ``bound``.

    Attributes:
        bound: in nats, at least 0, which commits one token and whatever is certain.
    """

    bound: float

    def __post_init__(self) -> None:
        _check("bound", self.bound, 0.0, None, "a bound in nats")

    def score(self, proposal: Proposal) -> jax.Array:
        """By negative entropy."""
        return proposal.neg_entropy

    def count(self, proposal: Proposal) -> jax.Array:
        """How many, from the surest, keep the sum of the entropies before each within the bound."""
        entropy = jnp.where(proposal.eligible, jnp.maximum(-proposal.neg_entropy, 0.0), jnp.inf)
        rising = jnp.sort(entropy, axis=1)
        # Each is the greatest of those up to it, so the sum without the greatest is exclusive.
        before = jnp.cumsum(jnp.pad(rising, ((0, 0), (1, 0)))[:, :-1], axis=1)
        return ((before <= self.bound) & jnp.isfinite(rising)).sum(axis=1)


def _check(name: str, value: Any, low: float | None, high: float | None, what: str) -> None:
    if not isinstance(value, int | float):
        return  # traced: it was checked before it was passed in
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = " and ".join(
            part
            for part in (
                f"at least {low}" if low is not None else "",
                f"at most {high}" if high is not None else "",
            )
            if part
        )
        raise ValueError(f"{name}={value} is not {what}; give one {bounds}")
