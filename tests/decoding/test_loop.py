from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from cd4lm_jax.decoding import batching, canvas, loop, queues
from cd4lm_jax.decoding.canvas import Queue
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.loop import Slots
from cd4lm_jax.decoding.program import Limits, Shape
from cd4lm_jax.decoding.rule import CommitRule, Proposal, rule
from cd4lm_jax.decoding.rules import (
    ConfidenceAdaptive,
    EntropyBounded,
    Factor,
    FixedStep,
    Margin,
    NegativeEntropy,
)
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.models.transformer import Transformer
from tests.decoding import reference
from tests.tiny import TINY_TALKER, forward, tiny_model

# Mask 0: where all logits are equal, or none is a number, the mask is what arg-max would pick.
CONFIG = dataclasses.replace(TINY_TALKER, mask_id=0)
GEN, BLOCK, PROMPT = 16, 8, queues.PROMPT_BUCKET
# Three rows at a time, so that two of five prompts take over the slots of others.
STOP = DecodeConfig(gen_length=GEN, block_length=BLOCK, batch_size=3)
FILL = dataclasses.replace(STOP, stop_at_eos=False)
SHY = ConfidenceAdaptive(threshold=0.9)

MODELS = [tiny_model(CONFIG, seed=seed, sharpness=2.5) for seed in range(3)]


def draw_prompts(seed: int) -> list[list[int]]:
    """Five prompts of 1 to 16 tokens, masks among them.

    Drawn by NumPy, for hypothesis looks for the simplest, and under a prompt that is one mask
    all positions are equal but for rounding: then nothing says which is committed first.
    """
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, CONFIG.vocab_size, n).tolist() for n in rng.integers(1, 17, 5)]
    return [[int(rng.integers(1, CONFIG.vocab_size)), *prompt[1:]] for prompt in prompts]


rng = np.random.default_rng(7)
PROMPTS = [rng.integers(1, CONFIG.vocab_size, length).tolist() for length in (5, 16, 1, 11, 8)]

shares = st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.0])
bounds = st.tuples(st.integers(1, 4), st.integers(0, 6)).map(
    lambda pair: {"min_tokens": pair[0], "max_tokens": sum(pair) if pair[1] else 0}
)
RULES: dict[str, st.SearchStrategy[CommitRule]] = {
    "fixed": st.builds(
        lambda passes, share: FixedStep(steps=passes * GEN // BLOCK, two_pass_share=share),
        st.integers(0, BLOCK),
        st.sampled_from([0.5, 0.4]),
    ),
    "confidence": st.builds(
        lambda threshold, most: ConfidenceAdaptive(threshold=threshold, **most), shares, bounds
    ),
    "entropy": st.builds(
        lambda share, most: NegativeEntropy(threshold=-2.5 * share, **most), shares, bounds
    ),
    "margin": st.builds(
        lambda threshold, most: Margin(threshold=threshold, **most), shares, bounds
    ),
    "factor": shares.map(lambda share: Factor(factor=4 * share)),
    "entropy bound": shares.map(lambda share: EntropyBounded(bound=2 * share)),
}
limits = st.fixed_dictionaries({"eos_gate_ratio": shares, "max_steps_per_block": st.integers(0, 4)})
models = st.integers(0, len(MODELS) - 1)
prompts = st.integers(0, 2**32 - 1).map(draw_prompts)
# Fixed draws: a tie within a rounding error would otherwise fail a run in a thousand.
examples = hypothesis.settings(max_examples=8, derandomize=True)


def decode(
    model: Transformer,
    prompts: list[list[int]],
    commit: CommitRule,
    options: DecodeConfig = STOP,
    given: queues.Given | None = None,
) -> Trajectory:
    config = dataclasses.replace(options, rule=commit)
    return batching.decode(model, prompts, config, given).trajectory


def logits_of(model: Transformer) -> reference.Logits:
    """The model on one row without any padding before it."""

    def logits(tokens: list[int]) -> np.ndarray:
        row = np.zeros((1, PROMPT + GEN), np.int32)
        row[0, : len(tokens)] = tokens
        valid = np.arange(PROMPT + GEN)[None] < len(tokens)
        return np.asarray(forward(model, jnp.asarray(row), jnp.asarray(valid)))[0, : len(tokens)]

    return logits


def equal(found: Trajectory, row: int, expected: reference.Row) -> None:
    assert found.tokens[row].tolist() == expected.tokens
    assert found.committed_at[row].tolist() == expected.committed_at
    assert found.nfe[row] == expected.nfe
    assert found.reason[row].tolist() == expected.reason
    np.testing.assert_allclose(found.confidence[row], expected.confidence, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [*((kind, STOP) for kind in RULES), ("fixed", FILL)],
    ids=[*RULES, "fixed to the end"],
)
def test_equals_the_plain_loop_and_keeps_its_bounds(kind: str, options: DecodeConfig) -> None:
    @examples
    @hypothesis.given(seed=models, given=prompts, commit=RULES[kind], limits=limits)
    def check(
        seed: int, given: list[list[int]], commit: CommitRule, limits: dict[str, Any]
    ) -> None:
        model, settings = MODELS[seed], dataclasses.replace(options, **limits)
        found = decode(model, given, commit, settings)
        for row, prompt in enumerate(given):
            expected = reference.decode(logits_of(model), prompt, commit, CONFIG, settings)
            equal(found, row, expected)
        assert (found.tokens != CONFIG.mask_id).all()
        assert ((found.nfe >= 1) & (found.nfe <= GEN)).all()
        if settings.max_steps_per_block:
            # The pass that commits what the limit left over is counted too.
            assert (found.nfe <= GEN // BLOCK * (settings.max_steps_per_block + 1)).all()
        elif isinstance(commit, ConfidenceAdaptive | NegativeEntropy | Margin):
            within_bounds(found, commit)

    check()


def within_bounds(found: Trajectory, commit: CommitRule) -> None:
    """Every pass commits from `min_tokens` (or what is left) to `max_tokens` of one block."""
    assert isinstance(commit, ConfidenceAdaptive | NegativeEntropy | Margin)
    for row, passes in zip(found.committed_at, found.nfe, strict=True):
        left = [BLOCK] * (GEN // BLOCK)
        for number in range(1, passes + 1):
            blocks = np.flatnonzero(row == number) // BLOCK
            block, count = int(blocks[0]), len(blocks)
            assert (blocks == block).all()
            assert min(commit.min_tokens, left[block]) <= count <= (commit.max_tokens or BLOCK)
            left[block] -= count


@pytest.mark.slow
@pytest.mark.parametrize("kind", RULES)
def test_a_row_alone_equals_the_row_in_a_ragged_batch(kind: str) -> None:
    @examples
    @hypothesis.given(seed=models, given=prompts, commit=RULES[kind], limits=limits)
    def check(
        seed: int, given: list[list[int]], commit: CommitRule, limits: dict[str, Any]
    ) -> None:
        model, settings = MODELS[seed], dataclasses.replace(STOP, **limits)
        together = decode(model, given, commit, settings)
        for row, prompt in enumerate(given):
            alone = decode(model, [prompt], commit, settings)
            np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
            np.testing.assert_array_equal(alone.committed_at[0], together.committed_at[row])
            assert alone.nfe[0] == together.nfe[row]
            assert alone.length[0] == together.length[row]

    check()


@pytest.mark.slow
def test_more_padding_changes_nothing() -> None:
    longer = rng.integers(0, CONFIG.vocab_size, PROMPT + 9).tolist()
    expected = decode(MODELS[0], PROMPTS[:2], SHY)
    found = decode(MODELS[0], [*PROMPTS[:2], longer], SHY)
    np.testing.assert_array_equal(found.tokens[:2], expected.tokens)
    np.testing.assert_array_equal(found.nfe[:2], expected.nfe)


def queue_of(given: list[list[int]]) -> Queue:
    tokens, valid, masked = canvas.layout(
        given, [()] * len(given), prompt_length=PROMPT, gen_length=GEN, mask_id=CONFIG.mask_id
    )
    return Queue(
        tokens=jnp.asarray(tokens),
        valid=jnp.asarray(valid),
        masked=jnp.asarray(masked),
        budget=jnp.full(len(given), canvas.NO_BUDGET, jnp.int32),
        keys=jax.random.split(jax.random.key(0), len(given)),
        pending=jnp.int32(len(given)),
    )


def slots_of(queue: Queue, row: jax.Array | slice = slice(None)) -> Slots:
    return Slots(queue.valid[row], queue.keys[row], queue.budget[row])


@functools.partial(jax.jit, static_argnames="shape")
def step(
    model: Transformer, slots: Slots, commit: CommitRule, shape: Shape, state: canvas.Canvas
) -> canvas.Canvas:
    return loop.advance(model, slots, commit, Limits(), shape, state)[0]


@pytest.mark.slow
def test_a_mask_token_inside_a_prompt_is_text_and_stays() -> None:
    prompt = [3, CONFIG.mask_id, 5, CONFIG.mask_id]
    queue = queue_of([prompt, [CONFIG.mask_id], [1]])
    state = canvas.State.start(queue, 3, STOP.shape(CONFIG), None).canvas
    while not state.done.all():
        state = step(MODELS[0], slots_of(queue), SHY, STOP.shape(CONFIG), state)
        np.testing.assert_array_equal(state.tokens[:, :PROMPT], queue.tokens[:, :PROMPT])
    expected = reference.decode(logits_of(MODELS[0]), prompt, SHY, CONFIG, STOP)
    known = np.asarray(~state.masked[0])
    np.testing.assert_array_equal(
        np.asarray(state.tokens)[0, PROMPT:][known], np.array(expected.tokens)[known]
    )
    assert int(state.nfe[0]) == expected.nfe
    end = loop.run(MODELS[0], queue, SHY, Limits(), shape=STOP.shape(CONFIG), slots=3)
    assert end.tokens[0].tolist() == expected.tokens


@pytest.mark.slow
@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("broken", ["nan", "equal"])
def test_ends_without_masks_whatever_the_logits(kind: str, broken: str) -> None:
    value = {"nan": jnp.nan, "equal": 0.0}[broken]
    model = jax.tree.map(lambda leaf: leaf * value, MODELS[0])
    strict: dict[str, CommitRule] = {
        "fixed": FixedStep(steps=GEN),
        "confidence": ConfidenceAdaptive(threshold=1.0),
        "entropy": NegativeEntropy(threshold=0.0),
        "margin": Margin(threshold=1.0),
        "factor": Factor(factor=0.0),
        "entropy bound": EntropyBounded(bound=0.0),
    }
    config = dataclasses.replace(STOP, eos_gate_ratio=1.0)
    if broken == "nan":  # the loop ends, and what it committed is refused
        with pytest.raises(ValueError, match="the model's output in pass 1 is no number"):
            decode(model, PROMPTS, strict[kind], config)
        return
    found = decode(model, PROMPTS, strict[kind], config)
    assert (found.nfe == GEN).all()  # one position a pass, from the left
    assert (found.tokens != CONFIG.mask_id).all()
    np.testing.assert_array_equal(found.committed_at, [np.arange(1, GEN + 1)] * len(PROMPTS))
    np.testing.assert_allclose(found.confidence, 1 / (CONFIG.vocab_size - 1), rtol=1e-6)


@pytest.mark.slow
def test_stopping_at_eos_freezes_the_row_and_fills_its_tail() -> None:
    one = ConfidenceAdaptive(threshold=1.0, max_tokens=1)
    stopped = [decode(model, PROMPTS, one) for model in MODELS]
    filled = [decode(model, PROMPTS, one, FILL) for model in MODELS]
    early = 0
    for short, full in zip(stopped, filled, strict=True):
        assert (full.nfe == GEN).all()
        assert (full.committed_at > 0).all()
        np.testing.assert_array_equal(short.length, full.length)
        tail = short.committed_at == 0
        np.testing.assert_array_equal(tail, full.committed_at > short.nfe[:, None])
        assert (short.tokens[tail] == CONFIG.eos_id).all()
        assert (short.confidence[tail] == 0).all()
        np.testing.assert_array_equal(short.tokens[~tail], full.tokens[~tail])
        np.testing.assert_array_equal(short.nfe, (~tail).sum(axis=1))
        early += int(tail.any(axis=1).sum())
    assert early >= 3


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 2, 5])
def test_a_slot_goes_to_the_next_prompt_as_soon_as_its_row_ends(slots: int) -> None:
    queue = queue_of(PROMPTS)
    expected = decode(MODELS[1], PROMPTS, SHY)
    end = loop.run(MODELS[1], queue, SHY, Limits(), shape=STOP.shape(CONFIG), slots=slots)
    np.testing.assert_array_equal(end.tokens, expected.tokens)
    np.testing.assert_array_equal(end.committed_at, expected.committed_at)
    np.testing.assert_array_equal(end.nfe, expected.nfe)
    # Pass by pass: no slot is idle while a prompt waits.
    state = canvas.State.start(queue, slots, STOP.shape(CONFIG), None)
    busy = []
    while not state.canvas.done.all():
        row = jnp.minimum(state.row, len(PROMPTS) - 1)
        busy.append(int((~state.canvas.done).sum()))
        moved = step(MODELS[1], slots_of(queue, row), SHY, STOP.shape(CONFIG), state.canvas)
        state = canvas.hand_over(
            queue, CONFIG.eos_id, STOP.shape(CONFIG), state._replace(canvas=moved)
        )
    assert sum(busy) == expected.nfe.sum()
    waiting = len(PROMPTS) - slots
    if waiting:
        assert busy[: int(np.sort(expected.nfe)[0])] == [slots] * int(np.sort(expected.nfe)[0])
    assert len(busy) <= expected.nfe.sum() // slots + expected.nfe.max()


@pytest.mark.slow
def test_only_counted_prompts_are_decoded() -> None:
    queue = queue_of(PROMPTS)
    expected = decode(MODELS[0], PROMPTS[:2], SHY)
    short = queue._replace(pending=jnp.int32(2))
    end = loop.run(MODELS[0], short, SHY, Limits(), shape=STOP.shape(CONFIG), slots=3)
    np.testing.assert_array_equal(end.tokens[:2], expected.tokens)
    assert end.nfe.tolist() == [*expected.nfe.tolist(), 0, 0, 0]
    # An empty queue: the loop does not start.
    empty = queue._replace(pending=jnp.int32(0))
    assert not loop.run(
        MODELS[0], empty, SHY, Limits(), shape=STOP.shape(CONFIG), slots=3
    ).nfe.any()


def test_thresholds_caps_and_limits_share_one_compile() -> None:
    decode(MODELS[0], PROMPTS, SHY)
    before = loop.run._cache_size()  # type: ignore[attr-defined]
    nfe = set()
    for threshold, most in itertools.product((0.1, 0.6, 0.99), (1, 4, 32)):
        commit = ConfidenceAdaptive(threshold=threshold, min_tokens=1, max_tokens=most)
        nfe.add(int(decode(MODELS[0], PROMPTS, commit).nfe.sum()))
    for settings in ({"eos_gate_ratio": 0.5}, {"max_steps_per_block": 3}, {"max_passes": 2}):
        decode(MODELS[1], PROMPTS, SHY, dataclasses.replace(STOP, **settings))
    assert len(nfe) >= 4
    assert loop.run._cache_size() == before  # type: ignore[attr-defined]


@pytest.mark.slow
def test_queues_of_many_lengths_share_one_compile() -> None:
    """Those beyond the batch; idle rows change neither results nor their number."""
    options = dataclasses.replace(STOP, batch_size=2)
    prompts = [[*PROMPTS[0][:1], row] for row in range(8)]
    whole = decode(MODELS[0], prompts, SHY, options)
    before = loop.run._cache_size()  # type: ignore[attr-defined]
    for count in (3, 5, 7):
        part = decode(MODELS[0], prompts[:count], SHY, options)
        np.testing.assert_array_equal(part.tokens, whole.tokens[:count])
        np.testing.assert_array_equal(part.nfe, whole.nfe[:count])
    assert loop.run._cache_size() == before  # type: ignore[attr-defined]


@pytest.mark.slow
def test_prompts_that_do_not_fill_the_batch_join_the_next_longer_ones() -> None:
    """Instead of a compile of their own, and slots that stay idle."""
    options = dataclasses.replace(STOP, batch_size=3)
    long = [[*PROMPTS[0][:1]] * (queues.PROMPT_BUCKET + 1 + row) for row in range(4)]
    alone = decode(MODELS[0], long, SHY, options)
    before = loop.run._cache_size()  # type: ignore[attr-defined]
    mixed = decode(MODELS[0], [long[0], PROMPTS[0], *long[1:3], PROMPTS[1]], SHY, options)
    assert loop.run._cache_size() == before  # type: ignore[attr-defined]
    places = [0, 2, 3]
    np.testing.assert_array_equal(mixed.tokens[places], alone.tokens[:3])
    np.testing.assert_array_equal(mixed.nfe[places], alone.nfe[:3])
    short = decode(MODELS[0], PROMPTS[:2], SHY, options)
    np.testing.assert_array_equal(mixed.tokens[[1, 4]], short.tokens)


def test_the_same_shapes_again_compile_nothing(caplog: pytest.LogCaptureFixture) -> None:
    decode(MODELS[0], PROMPTS, SHY)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        decode(MODELS[1], PROMPTS[::-1], SHY)
    assert not [text for text in caplog.messages if "Compiling" in text]


@pytest.mark.slow
def test_guidance_follows_lladas_formula() -> None:
    plain = logits_of(MODELS[0])
    results = []
    for scale in (1e-9, 1.5):
        options = dataclasses.replace(STOP, cfg_scale=scale)
        found = decode(MODELS[0], PROMPTS, SHY, options)
        for row, prompt in enumerate(PROMPTS):

            def guided(
                tokens: list[int], length: int = len(prompt), scale: float = scale
            ) -> np.ndarray:
                without = plain([CONFIG.mask_id] * length + tokens[length:])
                return without + (scale + 1) * (plain(tokens) - without)

            equal(found, row, reference.decode(guided, prompt, SHY, CONFIG, options))
        results.append(found)
    unguided = decode(MODELS[0], PROMPTS, SHY)
    np.testing.assert_array_equal(results[0].tokens, unguided.tokens)
    assert (results[1].tokens != unguided.tokens).any()


@pytest.mark.slow
def test_rows_look_at_their_own_blocks() -> None:
    model, everything = MODELS[0], ConfidenceAdaptive(threshold=0.0)
    queue = queue_of(PROMPTS[:3])
    tokens, valid, done = queue.tokens, queue.valid, jnp.zeros(3, bool)
    known = jnp.asarray(rng.integers(1, 10, (3, BLOCK)), jnp.int32)
    tokens = tokens.at[1:, PROMPT : PROMPT + BLOCK].set(known[1:])
    start = canvas.Canvas.start(tokens, valid, queue.masked, done, FILL.shape(CONFIG))
    start = start._replace(
        block=jnp.array([0, 1, 2]),  # the first, the last, finished
        masked=start.masked.at[1:, :BLOCK].set(False).at[2].set(False),
        nfe=jnp.array([0, 4, 9]),
        done=jnp.array([False, False, True]),
    )
    end = step(model, slots_of(queue), everything, FILL.shape(CONFIG), start)
    best = forward(model, start.tokens, valid).at[..., CONFIG.mask_id].set(-jnp.inf).argmax(-1)
    first, last = slice(PROMPT, PROMPT + BLOCK), slice(PROMPT + BLOCK, PROMPT + GEN)
    expected = np.array(start.tokens)
    expected[0, first] = best[0, first]
    expected[1, last] = best[1, last]
    np.testing.assert_array_equal(end.tokens, expected)
    assert end.nfe.tolist() == [1, 5, 9]
    assert end.block[:2].tolist() == [1, 2]
    assert end.done.tolist() == [False, True, True]
    assert set(end.committed_at[0, :BLOCK].tolist()) == {1}
    assert set(end.committed_at[1, BLOCK:].tolist()) == {5}


def draw_given(seed: int) -> list[list[int | None]]:
    """For five prompts, which generation positions are fixed: few, many, none or all of them."""
    rng = np.random.default_rng(seed)
    rows: list[list[int | None]] = []
    for share in (0.2, 0.8, 0.0, 1.0, 0.5):
        tokens = rng.integers(0, CONFIG.vocab_size, rng.integers(1, GEN + 1)).tolist()
        rows.append([token if rng.random() < share else None for token in tokens])
    rows[3] = rng.integers(1, 9, GEN).tolist()
    return rows


@pytest.mark.slow
@examples
@hypothesis.given(
    seed=models,
    prompts=prompts,
    given=st.integers(0, 2**32 - 1).map(draw_given),
    options=st.fixed_dictionaries(
        {
            "max_passes": st.integers(0, 6),
            "suppress": st.sampled_from([(), (3,), (1, 2, 5)]),
            "stop_sequences": st.sampled_from([(), ((3,),), ((1, 2), (5, 5, 6))]),
            "stop_at_eos": st.booleans(),
            "max_steps_per_block": st.integers(0, 2),
        }
    ),
)
def test_infilling_budgets_and_stops_equal_the_plain_loop(
    seed: int, prompts: list[list[int]], given: list[list[int | None]], options: dict[str, Any]
) -> None:
    settings = dataclasses.replace(STOP, **options)
    found = decode(MODELS[seed], prompts, SHY, settings, given)
    for row, (prompt, fixed) in enumerate(zip(prompts, given, strict=True)):
        expected = reference.decode(logits_of(MODELS[seed]), prompt, SHY, CONFIG, settings, fixed)
        equal(found, row, expected)
        for position, token in enumerate(fixed):
            assert token is None or found.tokens[row, position] == token
    assert (found.nfe <= (settings.max_passes or GEN)).all()
    assert found.nfe[3] == 0  # all of it is given


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 3, 100])
def test_a_stream_is_the_decode_in_parts(every: int) -> None:
    expected = decode(MODELS[1], PROMPTS, SHY)
    parts: dict[str, np.ndarray] = {
        name: np.zeros(expected.tokens.shape) for name in ("committed_at", "confidence", "reason")
    }
    parts["tokens"] = np.full(expected.tokens.shape, CONFIG.eos_id)
    nfe, order = np.zeros(len(PROMPTS), int), []
    for update in batching.decode_stream(
        MODELS[1], PROMPTS, dataclasses.replace(STOP, rule=SHY), every=every
    ):
        at = (update.row, update.position)
        assert not parts["committed_at"][at].any()  # nothing is reported twice
        parts["tokens"][at] = update.token
        parts["committed_at"][at] = update.committed_at
        parts["confidence"][at] = update.confidence
        parts["reason"][at] = update.reason
        nfe[update.finished] = update.nfe
        order += update.finished.tolist()
    for name, array in parts.items():
        np.testing.assert_array_equal(array, getattr(expected, name), err_msg=name)
    np.testing.assert_array_equal(nfe, expected.nfe)
    assert sorted(order) == list(range(len(PROMPTS)))


def test_a_stream_needs_passes() -> None:
    with pytest.raises(ValueError, match="every=0 passes; give 1 or more"):
        next(
            batching.decode_stream(MODELS[1], PROMPTS, dataclasses.replace(STOP, rule=SHY), every=0)
        )


@rule
@dataclasses.dataclass(frozen=True, kw_only=True)
class Half:
    """As WORKSPACE.md shows: commits the more confident half of what is eligible."""

    def score(self, proposal: Proposal) -> jax.Array:
        return proposal.confidence

    def count(self, proposal: Proposal) -> jax.Array:
        return proposal.eligible.sum(axis=1) // 2


@pytest.mark.slow
def test_an_own_rule_works() -> None:
    found = decode(MODELS[0], PROMPTS, Half(), FILL)
    per_block = [4, 2, 1, 1]
    for row in found.committed_at:
        for block, start in enumerate(range(0, GEN, BLOCK)):
            passes = row[start : start + BLOCK] - block * len(per_block)
            assert np.bincount(passes)[1:].tolist() == per_block


@rule
@dataclasses.dataclass(frozen=True, kw_only=True)
class Broken:
    """Ranks by nothing and wants to commit less than nothing."""

    def score(self, proposal: Proposal) -> jax.Array:
        return jnp.full_like(proposal.confidence, jnp.nan)

    def count(self, proposal: Proposal) -> jax.Array:
        return jnp.full_like(proposal.step, -3)


@pytest.mark.slow
def test_a_broken_rule_cannot_keep_the_loop_alive() -> None:
    found = decode(MODELS[0], PROMPTS, Broken(), FILL)
    assert (found.nfe == GEN).all()


@pytest.mark.parametrize(("gen", "block"), [(16, 6), (16, 0), (0, 8), (16, 32)])
def test_blocks_must_fill_the_generation(gen: int, block: int) -> None:
    with pytest.raises(ValueError, match=f"gen_length={gen} is not a multiple of block_length="):
        DecodeConfig(gen_length=gen, block_length=block).shape(CONFIG)
