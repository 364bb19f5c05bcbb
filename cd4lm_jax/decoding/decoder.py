"""Block decoding as one compiled ``lax.while_loop``, the same for every commit rule.

Rows advance through their blocks on their own, each as fast as its own confidence allows, so a
row gives the same tokens and the same number of passes alone as in any batch.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cd4lm_jax.decoding import canvas as canvases
from cd4lm_jax.decoding import stop
from cd4lm_jax.decoding.canvas import Canvas, Queue, Results, State
from cd4lm_jax.decoding.commit import CommitRule, Proposal
from cd4lm_jax.model.transformer import Transformer, Window


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What a decode compiles for; everything else is traced.

    Attributes:
        gen_length: generated positions a row.
        block_length: positions that are decoded together; divides ``gen_length``.
        eos_token_ids: tokens that the EOS gate holds back.
        stop_at_eos: a row ends when an end token and all before it are committed.
        guided: classifier-free guidance, one more model input a pass.
        sampled: draw tokens at ``Limits.temperature`` instead of taking the best.
        propose_mask: let the mask token be the best, as the published code does: a position that
            chooses it has had its turn but stays masked, and a pass may commit nothing. What is
            masked after a block's step limit comes back as EOS. For reproducing published runs.
    """

    gen_length: int
    block_length: int
    eos_token_ids: tuple[int, ...]
    stop_at_eos: bool = True
    guided: bool = False
    sampled: bool = False
    propose_mask: bool = False

    def __post_init__(self) -> None:
        if self.block_length < 1 or self.gen_length < 1 or self.gen_length % self.block_length:
            raise ValueError(
                f"gen_length={self.gen_length} is not a multiple of block_length="
                f"{self.block_length}; blocks must fill the generation exactly"
            )

    @property
    def num_blocks(self) -> int:
        """Blocks of the generation."""
        return self.gen_length // self.block_length


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["eos_gate_ratio", "max_steps_per_block", "cfg_scale", "temperature"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Traced settings of the loop.

    Attributes:
        eos_gate_ratio: while less than this share of the generation is committed, positions
            whose best token is an end token wait (CD4LM's EOS gate); 0 for no gate.
        max_steps_per_block: after so many passes one more commits all that is left of a block;
            0 for no limit but the block's length.
        cfg_scale: strength of classifier-free guidance (LLaDA): 0 for none.
        temperature: of the Gumbel noise that tokens are drawn with (LLaDA); confidence stays the
            drawn token's probability at temperature 1.
    """

    eos_gate_ratio: float = 0.0
    max_steps_per_block: int = 0
    cfg_scale: float = 0.0
    temperature: float = 0.0


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

    def one_pass(state: State) -> State:
        row = jnp.minimum(state.row, len(queue.tokens) - 1)
        canvas = advance(
            model, queue.valid[row], queue.keys[row], rule, limits, shape, state.canvas
        )
        state = state._replace(canvas=canvas)
        hand_over = functools.partial(canvases.hand_over, queue, model.config.eos_id)
        return lax.cond(state.ended(queue).any(), hand_over, lambda state: state, state)

    # An inconsistent rule must not be able to keep the loop alive: each pass commits a token of
    # every unfinished row, and the step limit ends a block whatever it proposes.
    return lax.while_loop(
        lambda state: ~state.canvas.done.all(),
        one_pass,
        State.start(queue, slots, shape.gen_length),
    ).results


def advance(
    model: Transformer,
    valid: jax.Array,
    keys: jax.Array,
    rule: CommitRule,
    limits: Limits,
    shape: Shape,
    canvas: Canvas,
) -> Canvas:
    """One forward pass and what it commits. Finished rows stay as they are."""
    size, prompt_length = shape.block_length, canvas.tokens.shape[1] - shape.gen_length
    # A finished row's block lies past the end; it looks at the last one and changes nothing.
    start = jnp.minimum(canvas.block, shape.num_blocks - 1) * size
    window = Window(start=prompt_length + start, length=size)
    logits = _logits(model, canvas, valid, window, limits, shape)
    mask_id = model.config.mask_id
    if not shape.propose_mask:
        logits = jnp.where(jnp.arange(logits.shape[-1]) == mask_id, -jnp.inf, logits)
    keys = jax.vmap(jax.random.fold_in)(keys, canvas.nfe)
    noisy = logits
    if shape.sampled:
        gumbel = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))
        noisy += limits.temperature * gumbel(keys)
    token, confidence, neg_entropy, margin = _propose(logits, noisy)

    region = Window(start=start, length=size)
    masked = region.of(canvas.masked) & ~canvas.done[:, None]
    committed = shape.gen_length - canvas.masked.sum(axis=1)
    gated = (committed < limits.eos_gate_ratio * shape.gen_length)[:, None]
    eligible = masked & ~(gated & stop.is_any_of(token, shape.eos_token_ids))
    proposal = Proposal(
        confidence=confidence,
        neg_entropy=neg_entropy,
        margin=margin,
        noise=jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), (size,)))(keys),
        eligible=eligible,
        step=canvas.step,
        num_blocks=shape.num_blocks,
    )

    limit = jnp.where(limits.max_steps_per_block > 0, limits.max_steps_per_block, size)
    forced = canvas.step >= limit
    count = jnp.where(forced, size, jnp.maximum(rule.count(proposal), 1))
    chosen = masked & (_rank(rule.score(proposal), eligible, masked) < count[:, None])
    commit = chosen & (token != mask_id)

    nfe = canvas.nfe + ~canvas.done
    full = forced | ~(masked & ~commit).any(axis=1)
    canvas = canvas._replace(
        tokens=_write(canvas.tokens, window, commit, token),
        masked=_write(canvas.masked, region, commit, jnp.zeros_like(commit)),
        committed_at=_write(canvas.committed_at, region, commit, nfe[:, None]),
        confidence=_write(canvas.confidence, region, commit, confidence),
        block=jnp.where(full, canvas.block + 1, canvas.block),
        step=jnp.where(full, 0, canvas.step + 1),
        nfe=nfe,
    )
    done = canvas.done | (canvas.block >= shape.num_blocks)
    if shape.stop_at_eos:
        generated = canvas.tokens[:, prompt_length:]
        done |= stop.ended(generated, canvas.masked, model.config.end_ids)
    return canvas._replace(done=done)


def _logits(
    model: Transformer,
    canvas: Canvas,
    valid: jax.Array,
    window: Window,
    limits: Limits,
    shape: Shape,
) -> jax.Array:
    """Float32 ``[batch, block, vocab]``, guided if asked."""
    if not shape.guided:
        return model(canvas.tokens, valid, window)
    # LLaDA's guidance: the same canvas with its prompt masked is the unconditional input.
    prompt = jnp.arange(valid.shape[1]) < valid.shape[1] - shape.gen_length
    unconditional = jnp.where(prompt, model.config.mask_id, canvas.tokens)
    both = Window(start=jnp.concatenate([window.start] * 2), length=window.length)
    tokens = jnp.concatenate([canvas.tokens, unconditional])
    with_prompt, without = jnp.split(model(tokens, jnp.concatenate([valid] * 2), both), 2)
    return without + (limits.cfg_scale + 1.0) * (with_prompt - without)


def _propose(
    logits: jax.Array, noisy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The token of each position, its probability, minus the entropy, and the margin.

    The token is the arg-max of ``noisy``, its probability that of ``logits``. Nothing is ranked
    along the vocabulary, which may be sharded: only maxima and sums are taken. Logits that are
    not finite give confidence 0.
    """
    token = jnp.argmax(noisy, axis=-1).astype(jnp.int32)
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
    return token, confidence, jnp.where(lost, -jnp.inf, neg_entropy), margin


def _rank(score: jax.Array, eligible: jax.Array, masked: jax.Array) -> jax.Array:
    """Each position's place ``[batch, block]`` in the order in which positions are committed.

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
    """``array [batch, length]`` with ``value`` in the window wherever ``where``."""
    new = jnp.where(where, value, window.of(array))
    put = jax.vmap(lambda row, part, at: lax.dynamic_update_slice_in_dim(row, part, at, 0))
    return put(array, new, window.start)
