"""How likely a masked-diffusion model finds a text, estimated by masking it at random.

LLaDA's estimator (2502.09992, its equation 6 and `eval_llada.py`): of a continuation of L tokens,
l are masked, l uniform from 1 to L, and L / l times the log-probability of those l, given all
others, is in expectation a lower bound of the log-likelihood. The numbers l of one estimate are
spread evenly, so that the estimate for a single token has no variance.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.models.window import Window

BUCKET = 32
"""Lengths are padded to multiples of this, so that few shapes are compiled."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonteCarlo:
    """How an estimate is drawn.

    Attributes:
        samples: maskings of each text; LLaDA takes 128, and 1 where continuations are one token.
        batch_size: maskings computed at once.
        seed: of the maskings; with it a text's estimate does not depend on other texts.
    """

    samples: int = 128
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; give 1 or more")


def maskings(length: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Which of the tokens each sample masks, bool `[samples, length]`, at least one in each."""
    spread = (rng.random() + np.arange(samples)) / samples  # systematic, uniform in [0, 1)
    counts = 1 + np.floor(spread * length).astype(int)
    ranks = rng.random((samples, length)).argsort(axis=1).argsort(axis=1)
    return ranks < counts[:, None]


def log_likelihood(
    model: Transformer, context: Sequence[int], continuation: Sequence[int], draw: MonteCarlo
) -> float:
    """The estimated log-probability of a continuation, in nats.

    Args:
        model: the parameters.
        context: token ids `[context]`, never masked.
        continuation: token ids `[continuation]`.
        draw: how many maskings, and which.

    Raises:
        ValueError: nothing to judge, or more tokens than the model has positions.
    """
    rng = np.random.default_rng([draw.seed, *context, *continuation])
    masked = maskings(len(continuation), draw.samples, rng)
    total = 0.0
    for start in range(0, draw.samples, draw.batch_size):
        some = masked[start : start + draw.batch_size]
        found, _, _ = _predict(model, context, continuation, some, rows=draw.batch_size)
        weights = len(continuation) / some.sum(axis=1)
        total += float((weights * np.where(some, found, 0.0).sum(axis=1)).sum())
    return total / draw.samples


def is_greedy(model: Transformer, context: Sequence[int], continuation: Sequence[int]) -> bool:
    """Whether decoding one token a pass, the most confident first, gives this continuation.

    Args:
        model: the parameters.
        context: token ids `[context]`.
        continuation: token ids `[continuation]`.

    Raises:
        ValueError: nothing to judge, or more tokens than the model has positions.
    """
    masked = np.ones((1, len(continuation)), bool)
    while masked.any():
        _, confidence, best = _predict(model, context, continuation, masked, rows=1)
        place = int(np.where(masked[0], confidence[0], -1.0).argmax())
        if not best[0, place]:
            return False
        masked[0, place] = False
    return True


def _predict(
    model: Transformer,
    context: Sequence[int],
    continuation: Sequence[int],
    masked: np.ndarray,
    *,
    rows: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the model predicts for every token of a continuation.

    Args:
        model: the parameters.
        context: token ids `[context]`.
        continuation: token ids `[continuation]`.
        masked: bool `[samples, continuation]`.
        rows: what is compiled for, at least the samples.

    Returns:
        Each `[samples, continuation]`: float32 log-probability of the token, float32 probability
        of the best token, bool whether the token is the best.
    """
    size, room = len(continuation), model.config.max_length
    if not size or len(context) + size > room:
        raise ValueError(
            f"{len(context)} tokens of context and {size} of continuation; expected at least one "
            f"of the latter and at most the model's {room} together"
        )
    window = -(-size // BUCKET) * BUCKET
    length = -(-(len(context) + window) // BUCKET) * BUCKET
    text = np.zeros(length, np.int32)
    text[: len(context) + size] = [*context, *continuation]
    where = np.zeros((rows, length), bool)
    where[: len(masked), len(context) : len(context) + size] = masked
    found = _compiled(
        model, jnp.asarray(text), len(context) + size, len(context), jnp.asarray(where), window
    )
    log, confidence, best = (np.asarray(array)[: len(masked), :size] for array in found)
    return log, confidence, best


@functools.partial(jax.jit, static_argnames="window")
def _compiled(
    model: Transformer,
    text: jax.Array,
    end: jax.Array,
    start: jax.Array,
    masked: jax.Array,
    window: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `_predict`, for the positions of a window.

    Args:
        model: the parameters.
        text: int32 `[length]`, context, continuation, padding.
        end: int32 `[]`, where the padding begins.
        start: int32 `[]`, where the window begins.
        masked: bool `[rows, length]`.
        window: its positions.

    Returns:
        float32, float32 and bool, each `[rows, window]`.
    """
    rows, length = masked.shape
    tokens = jnp.where(masked, model.config.mask_id, text[None])
    valid = jnp.broadcast_to(jnp.arange(length) < end, (rows, length))
    where = Window(start=jnp.full(rows, start), length=window)
    logits = model(tokens, valid, where)
    target = where.of(jnp.broadcast_to(text, (rows, length)))
    log = jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1)[..., 0]
    # A decoder never proposes the mask token.
    proposed = logits.at[..., model.config.mask_id].set(-jnp.inf)
    confidence = jax.nn.softmax(proposed).max(axis=-1)
    return log, confidence, proposed.argmax(axis=-1) == target
