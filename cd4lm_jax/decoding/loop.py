"""Block decoding as one compiled `lax.while_loop`, the same for every commit rule and cache.

Rows advance through their blocks on their own, each as fast as its own confidence allows, so a
row gives the same tokens and the same number of passes alone as in any batch.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cd4lm_jax.decoding import blocks, commit, editing, forward, on_mesh, sampling, stop
from cd4lm_jax.decoding import cache as caches
from cd4lm_jax.decoding import canvas as canvases
from cd4lm_jax.decoding.canvas import Canvas, Queue, Results, State
from cd4lm_jax.decoding.program import Limits, Shape
from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.decoding.region import Region
from cd4lm_jax.decoding.rule import CommitRule, Proposal
from cd4lm_jax.decoding.rules import FixedStep
from cd4lm_jax.models.attention import KeyValueCache
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.models.window import Window


@functools.partial(jax.jit, static_argnames=("shape", "slots"))
def run(
    model: Transformer,
    queue: Queue,
    rule: CommitRule,
    limits: Limits,
    *,
    shape: Shape,
    slots: int,
) -> Results:
    """Decodes a queue of prompts to the end, some of them at a time.

    A row that ends leaves its slot to the next prompt, so no row waits for a slower one.

    Args:
        model: parameters.
        queue: the prompts; how many of its rows count is traced.
        rule: its class is compiled for, its numbers are traced.
        limits: traced.
        shape: static.
        slots: static, rows that are decoded together.

    Returns:
        One row a prompt, in the order of the queue. What was still masked when a row ended is
        filled with EOS, with pass 0 and confidence 0; nothing is masked.
    """
    start = begin(model, queue, shape=shape, slots=slots)
    body = functools.partial(_pass, model, queue, rule, limits, shape)
    return lax.while_loop(functools.partial(_unfinished, queue), body, start).results


@functools.partial(jax.jit, static_argnames=("shape", "slots"))
def begin(model: Transformer, queue: Queue, *, shape: Shape, slots: int) -> State:
    """The state before the first pass, for `advance_by`."""
    cache = None
    if shape.cache != "none":
        rows = slots * (2 if shape.guided else 1)
        cache = caches.empty(model, rows, queue.tokens.shape[1], shape.cache_dtype)
    return State.start(queue, slots, shape, cache)


@functools.partial(jax.jit, static_argnames="shape", donate_argnames="state")
def advance_by(
    model: Transformer,
    queue: Queue,
    rule: CommitRule,
    limits: Limits,
    state: State,
    passes: jax.Array | int,
    *,
    shape: Shape,
) -> tuple[State, Results, jax.Array]:
    """As `run`, so many passes from a state on (fewer where all rows end before).

    Returns:
        The state; results with unfinished rows as they stand; and `[N]` bool, finished rows.
    """
    alive = functools.partial(_unfinished, queue)
    _, state = lax.while_loop(
        lambda carry: (carry[0] < passes) & alive(carry[1]),
        lambda carry: (carry[0] + 1, _pass(model, queue, rule, limits, shape, carry[1])),
        (jnp.int32(0), state),
    )
    busy = state.row < queue.pending
    place = jnp.where(busy, state.row, len(queue.tokens))
    number = jnp.arange(len(queue.tokens))
    started = number < jnp.minimum(state.upcoming, queue.pending)
    finished = on_mesh.everywhere(started.at[place].set(False, mode="drop"))
    return state, state.results_with(queue, model.config.eos_id, busy), finished


def _unfinished(queue: Queue, state: State) -> jax.Array:
    return (~state.canvas.done | state.ended(queue)).any()


def _pass(
    model: Transformer, queue: Queue, rule: CommitRule, limits: Limits, shape: Shape, state: State
) -> State:
    """A pass of every slot, after which those whose rows have ended are handed over."""
    # An inconsistent rule must not be able to keep the loop alive: each pass commits a token of
    # every unfinished row, and the step limit ends a block whatever it proposes.
    row = jnp.minimum(state.row, len(queue.tokens) - 1)
    canvas, cache = advance(
        model,
        Slots(queue.valid[row], queue.keys[row], queue.budget[row]),
        rule,
        limits,
        shape,
        state.canvas,
        state.cache,
    )
    # The cache stays outside the condition, which would copy it in every pass.
    state = state._replace(canvas=canvas, cache=None)
    hand_over = functools.partial(canvases.hand_over, queue, model.config.eos_id, shape)
    state = lax.cond(state.ended(queue).any(), hand_over, lambda state: state, state)
    return state._replace(cache=cache).pinned()


class Slots(NamedTuple):
    """What belongs to the rows on the canvas and does not change.

    Attributes:
        valid: `[B, T]` bool, False on padding.
        keys: `[B]` typed keys.
        budget: `[B]` int32, most passes.
    """

    valid: jax.Array
    keys: jax.Array
    budget: jax.Array


def advance(
    model: Transformer,
    slots: Slots,
    rule: CommitRule,
    limits: Limits,
    shape: Shape,
    canvas: Canvas,
    cache: KeyValueCache | None = None,
) -> tuple[Canvas, KeyValueCache | None]:
    """One forward pass and what it commits. Finished rows stay as they are."""
    size, prompt_length = shape.window_length, canvas.tokens.shape[1] - shape.gen_length
    offset = blocks.offset(slots.valid, shape.gen_length, shape.block_length, shape.blocks)
    opened = canvas.block + 1
    if shape.lookahead > 1:
        opened = blocks.open_next(
            canvas.left,
            blocks.sizes(
                slots.valid[:, prompt_length:], shape.block_length, offset, shape.num_blocks
            ),
            canvas.block,
            canvas.opened,
            lookahead=shape.lookahead,
            open_at=limits.open_at,
        )
    # A finished row's block is past the end; it computes the last one and changes nothing.
    start = jnp.minimum(canvas.block * shape.block_length - offset, shape.gen_length - size)
    window = Window(start=prompt_length + start, length=size)
    logits, cache = forward.logits(model, canvas, slots.valid, window, limits, shape, cache)
    keys = jax.vmap(jax.random.fold_in)(slots.keys, canvas.nfe)
    guess = sampling.guess(logits, keys, model.config.mask_id, limits, shape)

    region = Region(start=start, length=size, lead=shape.lead)
    text = Region(start=window.start, length=size)
    own, alive = blocks.block_of(size, start + offset, shape.block_length), ~canvas.done[:, None]
    within = alive & (own < opened[:, None])
    if not (shape.propose_mask and isinstance(rule, FixedStep)):
        # That published sampler takes up again what earlier blocks have left masked.
        within &= own >= canvas.block[:, None]
    masked = region.of(canvas.masked) & within
    active = leading = own <= canvas.block[:, None]
    if shape.lookahead > 1:
        leading = own == blocks.leading(canvas.left, canvas.block, opened)[:, None]
    gated = _gated(canvas, slots.valid[:, prompt_length:], guess.token, limits, shape)
    eligible = masked & ~gated
    planned, times = shape.plan
    proposal = Proposal(
        confidence=guess.confidence,
        neg_entropy=guess.neg_entropy,
        margin=guess.margin,
        noise=jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), (size,)))(keys),
        eligible=eligible,
        step=canvas.step if shape.lookahead == 1 else canvas.nfe,
        block_length=planned,
        num_blocks=times,
    )

    nfe = canvas.nfe + ~canvas.done
    most = limits.max_steps_per_block
    over = canvas.step >= jnp.where(most > 0, most, shape.block_length)
    last = nfe >= slots.budget
    choice = commit.choose(rule, proposal, masked, active, leading, over, last)
    chosen = choice.commit & (guess.token != model.config.mask_id)

    # A row's last pass leaves nothing masked in its open blocks.
    left = (masked & ~chosen & active).any(axis=1)
    full = over | last | ~left
    if shape.propose_mask and isinstance(rule, FixedStep):  # whatever is still masked
        full |= canvas.step + 1 >= rule.passes(planned, times)
    if shape.editing:
        edit = within & (guess.token != model.config.mask_id) & ~gated
        edit &= editing.replaced(guess, region, text, canvas, limits.editing_threshold)
        canvas = editing.write(canvas, edit, guess, region, text, nfe)
        busy = (masked & active).any(axis=1)
        canvas, settled = editing.settle(canvas, busy, (edit & active).any(axis=1), limits)
        full = ~left & settled
    canvas = canvas._replace(
        tokens=text.write(canvas.tokens, chosen, guess.token),
        masked=region.write(canvas.masked, chosen, jnp.zeros_like(chosen)),
        committed_at=region.write(canvas.committed_at, chosen, nfe[:, None]),
        # No number where the model's output was none: the host says so, see batching.
        confidence=region.write(
            canvas.confidence, chosen, jnp.where(guess.finite, guess.confidence, jnp.nan)
        ),
        reason=region.write(canvas.reason, chosen, choice.reason),
        left=_still_left(canvas.left, choice.commit, own, shape),
        opened=opened,
        before=canvas.block,
        step=jnp.where(full, 0, canvas.step + 1),
        settling=jnp.where(full, 0, canvas.settling),
        nfe=nfe,
    )
    following = blocks.next_block(
        canvas.masked, canvas.block, shape.block_length, offset, shape.num_blocks
    )
    block = jnp.where(full, following, canvas.block)
    done = canvas.done | (block >= shape.num_blocks) | last
    if shape.ends is not None:
        open_ = canvas.masked
        if shape.editing:  # an end may still be replaced
            open_ |= blocks.block_of(shape.gen_length, offset, shape.block_length) >= block[:, None]
        generated = canvas.tokens[:, prompt_length:]
        given = canvas.reason == Reason.GIVEN
        done |= shape.ends.found(generated, open_, given)[1].any(axis=1)
    return canvas._replace(block=block, done=done), cache


def _still_left(left: jax.Array, chosen: jax.Array, own: jax.Array, shape: Shape) -> jax.Array:
    """`Canvas.left` after a pass; it is needed where several blocks are open only."""
    if shape.lookahead == 1:
        return left
    return jnp.maximum(left - blocks.counts(chosen, own, shape.num_blocks), 0)


def _gated(
    canvas: Canvas, valid: jax.Array, token: jax.Array, limits: Limits, shape: Shape
) -> jax.Array:
    """`[batch, window]` bool: end tokens that the EOS gate holds back.

    `valid` is that of the generation.
    """
    committed = (valid & ~canvas.masked).sum(axis=1)
    shut = committed < limits.eos_gate_ratio * valid.sum(axis=1)
    return shut[:, None] & stop.is_any_of(token, shape.eos_token_ids)
