"""Which positions a pass commits: what the rule asks for, and at least one of a row."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.decoding.rule import CommitRule, Proposal


class Choice(NamedTuple):
    """What a pass commits.

    Attributes:
        commit: `[batch, window]` bool.
        reason: `[batch, window]` int32, a `Reason`, where it is committed.
    """

    commit: jax.Array
    reason: jax.Array


def choose(
    rule: CommitRule,
    proposal: Proposal,
    masked: jax.Array,
    active: jax.Array,
    leading: jax.Array,
    over: jax.Array,
    last: jax.Array,
) -> Choice:
    """The positions of open blocks that a pass commits.

    The best of all as the rule asks, at least one; and at least one of the leading block, so that
    with several blocks open the first is finished too.

    Args:
        rule: how.
        proposal: what the pass proposes.
        masked: `[batch, window]` bool, masked positions of open blocks.
        active: `[batch, window]` bool, positions of the active block.
        leading: `[batch, window]` bool, positions of the first block that is not all chosen: of the
            active block, but where the mask token may be proposed.
        over: `[batch]` bool, all that is left of the active block is committed.
        last: `[batch]` bool, all that is left of the open blocks is.
    """
    score, wanted = _asked(rule, proposal)
    rank = _rank(score, proposal.eligible, masked)
    chosen = masked & (rank < jnp.maximum(wanted, 1)[:, None])
    first = masked & leading
    none = ~(chosen & first).any(axis=1, keepdims=True)
    best = jnp.where(first, rank, rank.shape[1]).min(axis=1, keepdims=True)
    chosen |= none & first & (rank == best)
    chosen |= (masked & active & over[:, None]) | (masked & last[:, None])
    by_rule = (rank < wanted[:, None]) & proposal.eligible
    if hasattr(rule, "qualifies"):
        by_rule &= rule.qualifies(proposal)
    reason = jnp.where((over | last)[:, None], int(Reason.LIMIT), int(Reason.MINIMUM))
    return Choice(chosen, jnp.where(by_rule, int(Reason.RULE), reason))


def _asked(rule: CommitRule, proposal: Proposal) -> tuple[jax.Array, jax.Array]:
    """A rule's score `[batch, block]` and count `[batch]`.

    Raises:
        ValueError: it returns another shape.
    """
    score, count = jnp.asarray(rule.score(proposal)), jnp.asarray(rule.count(proposal))
    expected = proposal.confidence.shape
    for name, found, shape in (("score", score, expected), ("count", count, expected[:1])):
        if found.shape != shape:
            raise ValueError(
                f"{type(rule).__name__}.{name} returns shape {found.shape}, expected {shape}: "
                + ("one for each position" if name == "score" else "one for each row")
            )
    return score, count


def _rank(score: jax.Array, eligible: jax.Array, masked: jax.Array) -> jax.Array:
    """Each position's place `[batch, block]` in the order in which positions are committed.

    Eligible ones by score, then those that the gate holds back, then what is not masked; ties
    go to the lower position. Compared pair by pair: a block is short, a sort is slow.
    """
    score = jnp.where(eligible & ~jnp.isnan(score), score, -jnp.inf)
    tier = eligible.astype(jnp.int32) + masked
    place = jnp.arange(score.shape[1])
    mine, other = (slice(None), slice(None), None), (slice(None), None, slice(None))
    better = (score[other] > score[mine]) | (
        (score[other] == score[mine]) & (place[None, :] < place[:, None])
    )
    ahead = (tier[other] > tier[mine]) | ((tier[other] == tier[mine]) & better)
    return ahead.sum(axis=2)
