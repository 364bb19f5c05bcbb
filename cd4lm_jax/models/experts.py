"""Layers with experts: a router chooses a few gated MLPs for every token (LLaDA2, LLaDA-MoE)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """The experts of a model and how they are chosen.

    Attributes:
        count: experts of a layer.
        per_token: how many of them a token is sent to.
        width: of an expert's hidden layer.
        shared: experts that every token is sent to besides; one MLP of `shared * width`.
        dense_layers: first layers that have an ordinary MLP, of `mlp_dim`.
        score: of an expert for a token: `sigmoid` of its logit, or `softmax` over all experts.
        biased: a trained bias is added to the scores for the choice alone.
        groups: the experts are divided evenly into so many groups.
        groups_per_token: of the groups, those with the best sum of their two best scores stay.
        normalised: the weights of the chosen experts are divided by their sum.
        scale: of the weights, after that.
    """

    count: int
    per_token: int
    width: int
    shared: int = 0
    dense_layers: int = 0
    score: Literal["sigmoid", "softmax"] = "sigmoid"
    biased: bool = False
    groups: int = 1
    groups_per_token: int = 1
    normalised: bool = True
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.per_token <= self.count or self.width < 1:
            raise ValueError(
                f"experts: per_token={self.per_token} of count={self.count} with "
                f"width={self.width}; give 1 or more of each, and not more per token than there are"
            )
        if self.groups < 1 or self.count % self.groups:
            raise ValueError(
                f"experts.groups={self.groups} does not divide count={self.count}; groups are of "
                "one size"
            )
        most = self.groups_per_token * (self.count // self.groups)
        if not 1 <= self.groups_per_token <= self.groups or most < self.per_token:
            raise ValueError(
                f"experts.groups_per_token={self.groups_per_token} of groups={self.groups} leaves "
                f"{most} experts for per_token={self.per_token}; give more groups"
            )
        if self.groups > 1 and self.count < 2 * self.groups:
            raise ValueError(
                f"experts: {self.groups} groups of one expert; a group's score is the sum of its "
                "two best, give groups of 2 or more"
            )
        if self.shared < 0 or self.dense_layers < 0:
            raise ValueError(
                f"experts: shared={self.shared} and dense_layers={self.dense_layers}; give 0 or "
                "more"
            )


class Choice(NamedTuple):
    """Where each token is sent.

    Attributes:
        experts: `[tokens, per_token]`, the best first.
        weights: `[tokens, per_token]` float32.
    """

    experts: Int[jax.Array, "tokens chosen"]
    weights: Float[jax.Array, "tokens chosen"]


def route(
    config: ExpertsConfig,
    x: Float[jax.Array, "tokens embed"],
    router: Float[jax.Array, "embed experts"],
    bias: Float[jax.Array, " experts"] | None,
) -> Choice:
    """Chooses the experts of each token; in float32 whatever the model computes in.

    Args:
        config: how.
        x: `[tokens, embed]`.
        router: `[embed, experts]`.
        bias: `[experts]`, where `config.biased`.
    """
    logits = x.astype(jnp.float32) @ router.astype(jnp.float32)
    scores = (
        jax.nn.sigmoid(logits) if config.score == "sigmoid" else jax.nn.softmax(logits, axis=-1)
    )
    ranked = scores if bias is None else scores + bias.astype(jnp.float32)
    if config.groups > 1:
        grouped = ranked.reshape(len(x), config.groups, -1)
        _, best = lax.top_k(lax.top_k(grouped, 2)[0].sum(axis=-1), config.groups_per_token)
        stays = jax.nn.one_hot(best, config.groups, dtype=jnp.bool_).any(axis=1)
        ranked = jnp.where(stays[..., None], grouped, -jnp.inf).reshape(ranked.shape)
    _, chosen = lax.top_k(ranked, config.per_token)
    weights = jnp.take_along_axis(scores, chosen, axis=1)
    if config.normalised and config.per_token > 1:
        weights = weights / (weights.sum(axis=1, keepdims=True) + 1e-20)
    return Choice(chosen, config.scale * weights)


def mixture(
    x: Float[jax.Array, "tokens embed"],
    choice: Choice,
    gate: Float[jax.Array, "experts embed width"],
    up: Float[jax.Array, "experts embed width"],
    down: Float[jax.Array, "experts width embed"],
) -> Float[jax.Array, "tokens embed"]:
    """The chosen experts' outputs, weighted and added.

    Tokens are sorted by expert, so each kernel multiplies consecutive rows (`ragged_dot`), and
    put back in order before they are added: the sum does not depend on other tokens.
    """
    tokens, per_token = choice.experts.shape
    expert = choice.experts.reshape(-1)
    order = jnp.argsort(expert, stable=True)
    sizes = jnp.bincount(expert, length=len(gate)).astype(jnp.int32)
    rows = x[order // per_token]
    hidden = jax.nn.silu(lax.ragged_dot(rows, gate.astype(x.dtype), sizes))
    hidden = hidden * lax.ragged_dot(rows, up.astype(x.dtype), sizes)
    out = lax.ragged_dot(hidden, down.astype(x.dtype), sizes)
    out = out[jnp.argsort(order)].reshape(tokens, per_token, -1)
    weighted = out.astype(jnp.float32) * choice.weights[..., None]
    return weighted.sum(axis=1).astype(x.dtype)
