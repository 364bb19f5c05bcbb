"""From logits to a token for each position, and the model's confidence in it.

Nothing here is ranked along the vocabulary, which may be sharded: only maxima, sums and counts are
taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cd4lm_jax.decoding import stop
from cd4lm_jax.decoding.program import Limits, Shape


class Guess(NamedTuple):
    """What a pass would commit, each `[batch, window]`.

    Attributes:
        token: int32.
        confidence: float32, the token's probability; 0 where it is no number.
        neg_entropy: float32, minus the entropy (nats) of the distribution.
        margin: float32, the token's lead over the best other one.
        finite: bool, False where logits are no numbers or leave no token.
    """

    token: jax.Array
    confidence: jax.Array
    neg_entropy: jax.Array
    margin: jax.Array
    finite: jax.Array


def guess(logits: jax.Array, keys: jax.Array, mask_id: int, limits: Limits, shape: Shape) -> Guess:
    """What a pass would commit, from its logits `[batch, window, vocab]` and a key a row."""
    never = shape.suppressed if shape.propose_mask else (*shape.suppressed, mask_id)
    logits = jnp.where(stop.is_any_of(jnp.arange(logits.shape[-1]), never), -jnp.inf, logits)
    noisy = logits
    if shape.truncated:
        noisy = truncate(noisy, limits.temperature, limits.top_k, limits.top_p)
    drawn_from = noisy / limits.temperature if shape.sampled_confidence else logits
    if shape.sampled:
        noisy = perturb(noisy, keys, limits.temperature)
    return propose(drawn_from, noisy)


def propose(logits: jax.Array, noisy: jax.Array) -> Guess:
    """The best token of `noisy`, its probability under `logits`; both `[batch, window, vocab]`."""
    token = _best(noisy)
    centred = logits - logits.max(axis=-1, keepdims=True)
    total = jnp.exp(centred).sum(axis=-1)
    # Not exp(log_softmax): through the logarithm, probabilities near one round to ties.
    picked = jnp.arange(logits.shape[-1]) == token[..., None]
    confidence = jnp.where(picked, jnp.exp(centred), 0.0).sum(axis=-1) / total
    margin = confidence - jnp.exp(jnp.where(picked, -jnp.inf, centred).max(axis=-1)) / total
    expected = jnp.where(jnp.isneginf(centred), 0.0, jnp.exp(centred) * centred).sum(axis=-1)
    neg_entropy = expected / total - jnp.log(total)
    lost = jnp.isnan(confidence)
    confidence, margin = (jnp.where(lost, 0.0, share) for share in (confidence, margin))
    return Guess(token, confidence, jnp.where(lost, -jnp.inf, neg_entropy), margin, ~lost)


def _best(logits: jax.Array) -> jax.Array:
    """As `argmax` over the vocabulary: the first best, or the first that is not a number.

    In two plain reductions, which XLA on CPU runs many times as fast as one over pairs.
    """
    best = (logits == logits.max(axis=-1, keepdims=True)) | jnp.isnan(logits)
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    return jnp.where(best, ids, logits.shape[-1]).min(axis=-1)


def perturb(logits: jax.Array, keys: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """Logits whose best token is a draw from their softmax at `temperature`.

    Gumbel noise (LLaDA's sampler, without its float64), every row's from a key of its own.
    """
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
    return logits + temperature * noise


def truncate(
    logits: jax.Array,
    temperature: jax.Array | float,
    top_k: jax.Array | int,
    top_p: jax.Array | float,
) -> jax.Array:
    """`logits` with minus infinity for tokens outside the best `top_k` and `top_p`.

    Both are taken of the distribution at `temperature`. Tokens as likely as the last that is
    kept are kept too.

    Args:
        logits: `[..., vocab]`.
        temperature: of the distribution; 0 stands for one near 0.
        top_k: how many of the best tokens; 0 for all.
        top_p: the fewest best tokens with at least this probability together; 1 for all.
    """
    centred = logits - logits.max(axis=-1, keepdims=True)
    weight = jnp.exp(centred / jnp.maximum(temperature, 1e-6))
    total = weight.sum(axis=-1)
    by_rank = _least(weight, lambda kept: kept.sum(axis=-1) >= top_k)
    by_share = _least(
        weight, lambda kept: jnp.where(kept, weight, 0.0).sum(axis=-1) >= top_p * total
    )
    least = jnp.maximum(
        jnp.where(top_k > 0, by_rank, 0), jnp.where(jnp.asarray(top_p) < 1, by_share, 0)
    )
    return jnp.where(_order(weight) >= least[..., None], logits, -jnp.inf)


def _order(weight: jax.Array) -> jax.Array:
    """Int32 that order as floats from 0 do: their bits."""
    return lax.bitcast_convert_type(weight, jnp.int32)


def _least(weight: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The greatest bound, as `_order` has it, at which what reaches it is `enough`.

    Found by bisection over all float32 from 0 to 1, hence exact, in as many counts as it has bits.
    """
    order = _order(weight)
    low = jnp.zeros(weight.shape[:-1], jnp.int32)
    high = jnp.full_like(low, _order(jnp.float32(1.0)) + 1)

    def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        reached = enough(order >= middle[..., None])
        return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

    return lax.fori_loop(0, 31, halve, (low, high))[0]
