"""Rows that come and go: some passes of a batch in which every row has settings of its own.

`loop.run` decodes a queue under one set of numbers. Here threshold, temperature, budgets and seed
are arrays with a value for each row, so rows of different requests share a batch. The pass itself
is `loop.advance`, hence a row gets the tokens and passes that it gets in a queue.

The host keeps the rows between two calls and may put another row in the place of any that has
ended; only keys and values stay on the device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cd4lm_jax.decoding import cache as caches
from cd4lm_jax.decoding import canvas as canvases
from cd4lm_jax.decoding import loop, queues
from cd4lm_jax.decoding.canvas import Canvas
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.program import Limits, Shape
from cd4lm_jax.decoding.rule import CommitRule, Proposal
from cd4lm_jax.models.attention import KeyValueCache
from cd4lm_jax.models.transformer import Transformer


class Row(NamedTuple):
    """A row and what belongs to it; of a batch, each leaf with a leading axis of B rows.

    Attributes:
        canvas: as `canvas.Canvas` has it.
        valid: `[T]` bool, False on padding.
        seed: int32, of what is drawn.
        number: int32, of the prompt; it is folded into the seed.
        budget: int32, most passes.
        rule: its numbers.
        limits: its numbers.
    """

    canvas: Canvas
    valid: Any
    seed: Any
    number: Any
    budget: Any
    rule: CommitRule
    limits: Limits


def row(
    prompt: Sequence[int],
    given: Sequence[int | None],
    config: DecodeConfig,
    shape: Shape,
    *,
    prompt_length: int,
    mask_id: int,
    number: int = 0,
) -> Row:
    """A row before its first pass, on the host.

    Args:
        prompt: token ids, at most `prompt_length`.
        given: see `cd4lm_jax.decoding.batching.Given`.
        config: how.
        shape: what it is compiled for.
        prompt_length: what the prompt is padded to.
        mask_id: of the model.
        number: of the prompt; what `decode` of a list draws for its prompt of this number.
    """
    tokens, valid, masked = canvases.layout(
        [prompt],
        [given],
        prompt_length=prompt_length,
        gen_length=shape.gen_length,
        mask_id=mask_id,
        lengths=[queues.row_length(len(prompt), shape)],
    )
    # What `Canvas.start` works out of tokens and masks is filled in by the first call.
    canvas = _blank(shape, prompt_length)._replace(
        tokens=tokens[0],
        masked=masked[0],
        done=np.asarray(not masked.any()),  # type: ignore[arg-type]
    )
    return Row(
        canvas=canvas,
        valid=valid[0],
        seed=np.int32(config.seed),
        number=np.int32(number),
        budget=np.int32(config.max_passes or canvases.NO_BUDGET),
        rule=jax.tree.map(_number, config.rule),
        limits=jax.tree.map(_number, config.limits),
    )


def idle(like: Row) -> Row:
    """A row that is done, to fill a batch."""
    done: Any = np.bool_(True)
    return like._replace(canvas=like.canvas._replace(done=done))


def empty_cache(
    model: Transformer, shape: Shape, slots: int, prompt_length: int
) -> KeyValueCache | None:
    """Keys and values of so many slots; None where none are kept."""
    if shape.cache == "none":
        return None
    rows = slots * (2 if shape.guided else 1)
    return caches.empty(model, rows, prompt_length + shape.gen_length, shape.cache_dtype)


@functools.partial(jax.jit, static_argnames="shape", donate_argnames="cache")
def advance_by(
    model: Transformer,
    rows: Row,
    cache: KeyValueCache | None,
    place: jax.Array,
    passes: jax.Array | int,
    eager: jax.Array | bool,
    *,
    shape: Shape,
) -> tuple[Canvas, KeyValueCache | None]:
    """So many passes of B rows, fewer where all end before.

    Args:
        model: parameters.
        rows: the batch, see `Row`.
        cache: keys and values of S slots.
        place: `[B]` int32, the slot of each row.
        passes: at most.
        eager: return as soon as a row has ended, since another waits for its place.
        shape: static.

    Returns:
        The rows' canvases and the cache.
    """
    own = cache if cache is None else _slots(cache, place, shape)
    settings = loop.Slots(rows.valid, _keys(rows.seed, rows.number), rows.budget)
    rule, limits = PerRow(rows.rule), per_row(rows.limits)
    start = _started(rows.canvas, rows.valid, shape)

    def more(carry: tuple[jax.Array, Canvas, KeyValueCache | None]) -> jax.Array:
        count, canvas, _ = carry
        ended = eager & (canvas.done & ~start.done).any()
        return (count < passes) & ~canvas.done.all() & ~ended

    def body(
        carry: tuple[jax.Array, Canvas, KeyValueCache | None],
    ) -> tuple[jax.Array, Canvas, KeyValueCache | None]:
        count, canvas, kept = carry
        return count + 1, *loop.advance(model, settings, rule, limits, shape, canvas, kept)

    _, canvas, own = lax.while_loop(more, body, (jnp.int32(0), start, own))
    if cache is not None and own is not None:
        cache = _put(cache, own, place, shape)
    return canvas, cache


class PerRow:
    """A commit rule whose numbers are `[B]`: every row is asked by itself."""

    def __init__(self, rule: CommitRule) -> None:
        self._rule = rule
        if hasattr(rule, "qualifies"):
            self.qualifies = functools.partial(self._each, "qualifies")

    def score(self, proposal: Proposal) -> jax.Array:
        """`[batch, block]`, each row's by its own rule."""
        return self._each("score", proposal)

    def count(self, proposal: Proposal) -> jax.Array:
        """`[batch]`, likewise."""
        return self._each("count", proposal)

    def _each(self, method: str, proposal: Proposal) -> jax.Array:
        values = proposal._asdict()
        arrays = {name: value for name, value in values.items() if isinstance(value, jax.Array)}

        def one(rule: CommitRule, of_row: dict[str, jax.Array]) -> jax.Array:
            single = {name: value[None] for name, value in of_row.items()}
            ask: Callable[[Proposal], jax.Array] = getattr(rule, method)
            return jnp.asarray(ask(Proposal(**values | single)))[0]

        return jax.vmap(one)(self._rule, arrays)


def per_row(limits: Limits) -> Limits:
    """Limits of `[B]` numbers with the axes by which the loop broadcasts them.

    Temperature and guidance meet `[B, block, vocab]`; top-k, top-p and the threshold of editing
    `[B, block]`; others `[B]`.
    """
    axes = {"temperature": 2, "cfg_scale": 2, "top_k": 1, "top_p": 1, "editing_threshold": 1}
    values: dict[str, Any] = {
        name: jnp.expand_dims(value, tuple(range(1, 1 + axes.get(name, 0))))
        for name, value in vars(limits).items()
    }
    return Limits(**values)


@functools.cache
def _blank(shape: Shape, prompt_length: int) -> Canvas:
    """Zeros in the place of every field of a canvas of one row, on the host."""
    total = prompt_length + shape.gen_length
    like = jax.eval_shape(
        functools.partial(Canvas.start, shape=shape),
        jax.ShapeDtypeStruct((1, total), np.int32),
        jax.ShapeDtypeStruct((1, total), np.bool_),
        jax.ShapeDtypeStruct((1, shape.gen_length), np.bool_),
        jax.ShapeDtypeStruct((1,), np.bool_),
    )
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), like)


def _started(canvas: Canvas, valid: jax.Array, shape: Shape) -> Canvas:
    """The canvases, those before their first pass as `Canvas.start` makes them."""
    fresh = (canvas.nfe == 0) & ~canvas.done
    new = Canvas.start(canvas.tokens, valid, canvas.masked, canvas.done, shape)
    return jax.tree.map(
        lambda new, old: jnp.where(fresh.reshape(-1, *[1] * (new.ndim - 1)), new, old),
        new,
        Canvas(*map(jnp.asarray, canvas)),
    )


def _keys(seeds: jax.Array, numbers: jax.Array) -> jax.Array:
    return jax.vmap(lambda seed, number: jax.random.fold_in(jax.random.key(seed), number))(
        seeds, numbers
    )


def _guided(place: jax.Array, shape: Shape) -> jax.Array:
    """Places in a cache that holds the unconditional input of a row beside the other."""
    return jnp.stack([2 * place, 2 * place + 1], axis=1).reshape(-1) if shape.guided else place


def _slots(cache: KeyValueCache, place: jax.Array, shape: Shape) -> KeyValueCache:
    def take(leaf: jax.Array) -> jax.Array:
        return leaf[..., _guided(place, shape), :, :, :]

    return jax.tree.map(take, cache)


def _put(cache: KeyValueCache, own: KeyValueCache, place: jax.Array, shape: Shape) -> KeyValueCache:
    def put(leaf: jax.Array, rows: jax.Array) -> jax.Array:
        at = _guided(place, shape)
        return leaf.at[..., at, :, :, :].set(rows, unique_indices=True)

    return jax.tree.map(put, cache, own)


def _number(value: Any) -> np.generic:
    return np.float32(value) if isinstance(value, float) else np.int32(value)
