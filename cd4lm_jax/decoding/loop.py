"""Block decoding as one compiled `lax.while_loop`, the same for every commit rule and cache.

Rows advance through their blocks on their own, each as fast as its own confidence allows, so a
row gives the same tokens and the same number of passes alone as in any batch.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cd4lm_jax.decoding import cache as caches
from cd4lm_jax.decoding import canvas as canvases
from cd4lm_jax.decoding import on_mesh, sampling, stop
from cd4lm_jax.decoding.canvas import Canvas, Queue, Results, State
from cd4lm_jax.decoding.program import Limits, Shape
from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.decoding.rule import CommitRule, Proposal
from cd4lm_jax.decoding.rules import FixedStep
from cd4lm_jax.models.attention import KeyValueCache
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.models.window import Window
from cd4lm_jax.runtime.sharding import constrain


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
        cache = caches.empty(model, rows, queue.tokens.shape[1])
    return State.start(queue, slots, shape.block_length, cache)


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
    hand_over = functools.partial(
        canvases.hand_over, queue, model.config.eos_id, shape.block_length
    )
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
    # A finished row's block is past the end; it computes the last one and changes nothing.
    start = jnp.minimum(canvas.block * shape.block_length, shape.gen_length - size)
    window = Window(start=prompt_length + start, length=size)
    logits, cache = _logits(model, canvas, slots.valid, window, limits, shape, cache)
    mask_id = model.config.mask_id
    never = shape.suppressed if shape.propose_mask else (*shape.suppressed, mask_id)
    logits = jnp.where(stop.is_any_of(jnp.arange(logits.shape[-1]), never), -jnp.inf, logits)
    keys = jax.vmap(jax.random.fold_in)(slots.keys, canvas.nfe)
    noisy = logits
    if shape.truncated:
        noisy = sampling.truncate(noisy, limits.temperature, limits.top_k, limits.top_p)
    drawn_from = noisy / limits.temperature if shape.sampled_confidence else logits
    if shape.sampled:
        noisy = sampling.perturb(noisy, keys, limits.temperature)
    guess = sampling.propose(drawn_from, noisy)

    region = Window(start=start, length=size)
    masked = region.of(canvas.masked) & ~canvas.done[:, None]
    if shape.propose_mask:
        masked &= _in_reach(rule, shape, canvas.block)
    committed = shape.gen_length - canvas.masked.sum(axis=1)
    gated = (committed < limits.eos_gate_ratio * shape.gen_length)[:, None]
    eligible = masked & ~(gated & stop.is_any_of(guess.token, shape.eos_token_ids))
    proposal = Proposal(
        confidence=guess.confidence,
        neg_entropy=guess.neg_entropy,
        margin=guess.margin,
        noise=jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), (size,)))(keys),
        eligible=eligible,
        step=canvas.step,
        block_length=shape.block_length,
        num_blocks=shape.num_blocks,
    )

    nfe = canvas.nfe + ~canvas.done
    most = limits.max_steps_per_block
    forced = (canvas.step >= jnp.where(most > 0, most, shape.block_length)) | (nfe >= slots.budget)
    score, wanted = _asked(rule, proposal)
    count = jnp.where(forced, size, jnp.maximum(wanted, 1))
    rank = _rank(score, eligible, masked)
    commit = masked & (rank < count[:, None]) & (guess.token != mask_id)
    by_rule = (rank < wanted[:, None]) & eligible
    if hasattr(rule, "qualifies"):
        by_rule &= rule.qualifies(proposal)
    reason = jnp.where(forced[:, None], int(Reason.LIMIT), int(Reason.MINIMUM))
    reason = jnp.where(by_rule, int(Reason.RULE), reason)

    full = forced | ~(masked & ~commit).any(axis=1)
    if shape.propose_mask and isinstance(rule, FixedStep):  # whatever is still masked
        full |= canvas.step + 1 >= rule.passes(shape.block_length, shape.num_blocks)
    canvas = canvas._replace(
        tokens=_write(canvas.tokens, window, commit, guess.token),
        masked=_write(canvas.masked, region, commit, jnp.zeros_like(commit)),
        committed_at=_write(canvas.committed_at, region, commit, nfe[:, None]),
        # No number where the model's output was none: the host says so, see batching.
        confidence=_write(
            canvas.confidence,
            region,
            commit,
            jnp.where(guess.finite, guess.confidence, jnp.nan),
        ),
        reason=_write(canvas.reason, region, commit, reason),
        step=jnp.where(full, 0, canvas.step + 1),
        nfe=nfe,
    )
    block = jnp.where(
        full, canvases.next_block(canvas.masked, canvas.block, shape.block_length), canvas.block
    )
    done = canvas.done | (block >= shape.num_blocks) | (nfe >= slots.budget)
    if shape.ends is not None:
        generated = canvas.tokens[:, prompt_length:]
        given = canvas.reason == Reason.GIVEN
        done |= shape.ends.found(generated, canvas.masked, given)[1].any(axis=1)
    return canvas._replace(block=block, done=done), cache


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


def _in_reach(rule: CommitRule, shape: Shape, block: jax.Array) -> jax.Array:
    """`[batch, generation]` bool: what the published code may commit in a block.

    Its fixed-step sampler takes up again what earlier blocks have left masked.
    """
    own, block = jnp.arange(shape.gen_length) // shape.block_length, block[:, None]
    return own <= block if isinstance(rule, FixedStep) else own == block


def _logits(
    model: Transformer,
    canvas: Canvas,
    valid: jax.Array,
    window: Window,
    limits: Limits,
    shape: Shape,
    cache: KeyValueCache | None,
) -> tuple[jax.Array, KeyValueCache | None]:
    """Float32 `[batch, block, vocab]`, guided if asked, and the cache."""
    tokens, entering = canvas.tokens, canvas.step == 0
    interval = jnp.asarray(limits.refresh_interval)
    entering |= (interval > 0) & (canvas.step % jnp.maximum(interval, 1) == 0)
    entering, inside = entering & ~canvas.done, ~entering & ~canvas.done
    place = jnp.arange(valid.shape[1]) - (valid.shape[1] - shape.gen_length)
    if shape.guided:
        # LLaDA's guidance: the same canvas with its prompt masked is the unconditional input.
        unconditional = jnp.where(place < 0, model.config.mask_id, tokens)
        # Side by side, so that both inputs of a row are in one part of a mesh.
        tokens = jnp.stack([tokens, unconditional], axis=1).reshape(-1, tokens.shape[1])
        valid, entering, inside, start = (
            jnp.repeat(array, 2, axis=0) for array in (valid, entering, inside, window.start)
        )
        window = Window(start=start, length=window.length)
    groups = None
    if shape.block_causal:
        groups = jnp.broadcast_to(jnp.maximum(place // shape.block_length, -1), tokens.shape)
    inputs = caches.Inputs(tokens, valid, groups)
    if cache is None:
        logits = constrain(model(tokens, valid, window, groups), ("batch", None, "vocab"))
    else:
        logits, cache = caches.predict(
            model,
            inputs,
            window,
            entering,
            inside,
            cache,
            suffixes=shape.suffixes,
            refresh_rows=min(shape.refresh_rows, len(tokens)),
        )
    if shape.guided:
        pairs = logits.reshape(-1, 2, *logits.shape[1:])
        with_prompt, without = pairs[:, 0], pairs[:, 1]
        logits = without + (limits.cfg_scale + 1.0) * (with_prompt - without)
    return logits, cache


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


def _write(array: jax.Array, window: Window, where: jax.Array, value: Any) -> jax.Array:
    """`array [batch, length]` with `value` in the window wherever `where`."""
    new = jnp.where(where, value, window.of(array))
    put = jax.vmap(lambda row, part, at: lax.dynamic_update_slice_in_dim(row, part, at, 0))
    return put(array, new, window.start)
