"""The caches: what they may change, what they may not, and when `prefix` is exact."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cd4lm_jax as cd
from cd4lm_jax.decoding import batching, cache, canvas, loop, queues
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.models.attention import KeyValueCache
from cd4lm_jax.models.transformer import Execution, Transformer
from cd4lm_jax.models.window import Window
from tests.tiny import TINY_TALKER, tiny_model

pytestmark = pytest.mark.slow

SHIFTED = dataclasses.replace(TINY_TALKER, alignment="shifted")
GEN, BLOCK = 12, 4
FILL = DecodeConfig(gen_length=GEN, block_length=BLOCK, stop_at_eos=False, batch_size=3)
RULE = cd.ConfidenceAdaptive(threshold=0.6)
LAYOUTS = {
    "same": tiny_model(TINY_TALKER, seed=1, sharpness=2.5),
    "shifted": tiny_model(SHIFTED, seed=1, sharpness=2.5),
    "unrolled": tiny_model(TINY_TALKER, Execution(scan_layers=False), seed=1, sharpness=2.5),
}
layouts = pytest.mark.parametrize("name", ["same", "shifted"])
UNROLLED = LAYOUTS["unrolled"]

rng = np.random.default_rng(3)
PROMPTS = [rng.integers(0, 12, length).tolist() for length in (5, 16, 2, 11, 8, 3)]

QUEUE = canvas.Queue(
    tokens=jnp.zeros((1, 8 + GEN), jnp.int32),
    valid=jnp.ones((1, 8 + GEN), bool),
    masked=jnp.ones((1, GEN), bool),
    budget=jnp.full(1, canvas.NO_BUDGET, jnp.int32),
    keys=jax.random.split(jax.random.key(0), 1),
    pending=jnp.int32(1),
)


def decode(model: Transformer, prompts: list[list[int]] = PROMPTS, **changes: Any) -> Trajectory:
    options = dataclasses.replace(FILL, **changes)
    return batching.decode(model, prompts, dataclasses.replace(options, rule=RULE)).trajectory


def same(first: Trajectory, second: Trajectory) -> None:
    for name in ("tokens", "committed_at", "reason", "nfe", "length"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


@layouts
def test_a_refresh_in_every_pass_is_no_cache(name: str) -> None:
    expected = decode(LAYOUTS[name])
    for kind in ("prefix", "dual"):
        same(decode(LAYOUTS[name], cache=kind, refresh_interval=1), expected)


@layouts
def test_prefix_is_exact_under_block_causal_attention(name: str) -> None:
    model = LAYOUTS[name]
    expected = decode(model, block_causal=True)
    same(decode(model, block_causal=True, cache="prefix"), expected)
    assert (expected.tokens != decode(model).tokens).any()  # the attention mask does something


@layouts
@pytest.mark.parametrize("kind", ["prefix", "dual"])
def test_a_row_alone_equals_the_row_in_a_ragged_batch(name: str, kind: str) -> None:
    model = LAYOUTS[name]
    for interval in (0, 2):
        settings: dict[str, Any] = {
            "cache": kind,
            "refresh_interval": interval,
            "stop_at_eos": True,
        }
        together = decode(model, **settings)
        assert len(set(together.nfe.tolist())) > 1  # rows do reach their blocks at other passes
        for row, prompt in enumerate(PROMPTS):
            same(decode(model, [prompt], **settings), together.rows([row]))


@layouts
@pytest.mark.parametrize("kind", ["prefix", "dual"])
def test_a_cache_in_int8_rounds_what_is_kept_and_keeps_rows_apart(name: str, kind: str) -> None:
    model = LAYOUTS[name]
    settings: dict[str, Any] = {"cache": kind, "cache_dtype": "int8"}
    # Where every pass computes all positions, nothing that was rounded is read.
    same(decode(model, **settings, refresh_interval=1), decode(model))
    together = decode(model, **settings)
    for row, prompt in enumerate(PROMPTS[:3]):
        same(decode(model, [prompt], **settings), together.rows([row]))
    followed = decode(model, **settings, block_causal=True)
    same(decode(model, PROMPTS[:1], **settings, block_causal=True), followed.rows([0]))
    assert followed.confidence.tolist() != decode(model, block_causal=True).confidence.tolist()


@pytest.mark.parametrize("scan_layers", [True, False])
def test_a_cache_in_int8_takes_a_quarter_and_a_scale(scan_layers: bool) -> None:
    model = tiny_model(TINY_TALKER, Execution(scan_layers=scan_layers))
    held = {}
    for stored in ("model", "int8"):
        made = jax.eval_shape(functools.partial(cache.empty, model, 2, 24, stored))
        held[stored] = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(made))
    heads = 2 * 2 * 24 * TINY_TALKER.num_layers * TINY_TALKER.num_kv_heads
    assert held["model"] == heads * TINY_TALKER.head_dim * 4
    assert held["int8"] == heads * (TINY_TALKER.head_dim + 4)


def test_rows_computed_whole_together_are_not_changed_by_it() -> None:
    expected = decode(LAYOUTS["same"], cache="dual")
    for together in (2, 8):
        same(decode(LAYOUTS["same"], cache="dual", refresh_rows=together), expected)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_cached_forward_after_its_prefill_computes_the_same(name: str) -> None:
    """From a cache of the very same tokens the model gives what it gives without one."""
    model, length = LAYOUTS[name], 16 + GEN
    tokens = jnp.asarray(rng.integers(0, 12, (3, length)), jnp.int32)
    valid = jnp.arange(length) >= jnp.array([0, 11, 5])[:, None]
    window = Window(start=jnp.array([22, 24, 23]), length=BLOCK)
    places = jnp.maximum((jnp.arange(length) - 16) // BLOCK, -1)
    causal = jnp.broadcast_to(places, tokens.shape)

    @jax.jit
    def variants(model: Transformer) -> list[tuple[jax.Array, list[jax.Array]]]:
        results = []
        for groups in (None, causal):
            kept, cache = model.prefill(tokens, valid, window, groups)
            found = [
                model.cached_forward(tokens, valid, window, cache, suffix=suffix, groups=groups)
                for suffix in (0, GEN, GEN // 2)
            ]
            results.append((model.hidden(tokens, valid, window, groups), [kept, *found]))
        return results

    free, bound = variants(model)
    for expected, found in (free, bound):
        for each in found:
            np.testing.assert_allclose(each, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(free[0] - bound[0]).max() > 0.1


@jax.jit
def enter(
    model: Transformer, tokens: jax.Array, valid: jax.Array, at: jax.Array
) -> tuple[jax.Array, KeyValueCache]:
    hidden, cache = model.prefill(tokens, valid, Window(start=at, length=BLOCK))
    return model.logits(hidden), cache


@jax.jit
def stay(
    model: Transformer, tokens: jax.Array, valid: jax.Array, at: jax.Array, cache: KeyValueCache
) -> jax.Array:
    return model.logits(model.cached_forward(tokens, valid, Window(start=at, length=BLOCK), cache))


def test_dual_keeps_what_lies_outside_the_block_as_it_was() -> None:
    """The definition (Fast-dLLM, section 3.2) pass by pass in plain words, for one row."""
    model, prompt = LAYOUTS["same"], PROMPTS[0]
    found = decode(model, [prompt], cache="dual")
    length = queues.PROMPT_BUCKET + GEN
    tokens = np.zeros((1, length), np.int32)
    start = queues.PROMPT_BUCKET
    tokens[0, start - len(prompt) : start] = prompt
    tokens[0, start:] = TINY_TALKER.mask_id
    valid = np.arange(length)[None] >= start - len(prompt)
    masked, passes = np.ones(GEN, bool), 0
    committed_at = np.zeros(GEN, int)
    for block in range(0, GEN, BLOCK):
        at, cache = jnp.array([start + block]), None
        while masked[block : block + BLOCK].any():
            if cache is None:
                logits, cache = enter(model, tokens, valid, at)
            else:
                logits = stay(model, tokens, valid, at, cache)
            logits = np.array(logits, np.float64)[0]
            logits[:, TINY_TALKER.mask_id] = -np.inf
            share = np.exp(logits - logits.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            sure = np.where(masked[block : block + BLOCK], share.max(axis=1), -1)
            chosen = np.flatnonzero(sure >= RULE.threshold)
            chosen = chosen if len(chosen) else np.array([sure.argmax()])
            passes += 1
            for place in chosen:
                tokens[0, start + block + place] = share[place].argmax()
                masked[block + place] = False
                committed_at[block + place] = passes
    assert found.tokens[0].tolist() == tokens[0, start:].tolist()
    assert found.committed_at[0].tolist() == committed_at.tolist()
    assert found.nfe[0] == passes


@pytest.mark.parametrize("kind", ["none", "prefix", "dual"])
def test_unrolled_layers_decode_as_scanned_ones_and_are_not_copied_in_every_pass(
    kind: cache.Mode,
) -> None:
    same(decode(UNROLLED, cache=kind), decode(LAYOUTS["same"], cache=kind))

    def kernels_copied(model: Transformer) -> list[str]:
        options = dataclasses.replace(FILL, cache=kind)
        program = loop.run.lower(
            model, QUEUE, RULE, options.limits, shape=options.shape(TINY_TALKER), slots=1
        )
        kernel = f"f32[{TINY_TALKER.embed_dim},{TINY_TALKER.mlp_dim}]"
        return re.findall(rf"= {re.escape(kernel)}\S* .*slice.*", str(program.compile().as_text()))

    assert not kernels_copied(UNROLLED.by_layer())
    assert kernels_copied(UNROLLED)  # taken from the stack in every pass


def test_guidance_keeps_a_cache_for_both_its_inputs() -> None:
    model = LAYOUTS["same"]
    expected = decode(model, cfg_scale=1.5)
    same(decode(model, cfg_scale=1.5, cache="dual", refresh_interval=1), expected)
    alone = decode(model, [PROMPTS[3]], cfg_scale=1.5, cache="dual")
    same(alone, decode(model, cfg_scale=1.5, cache="dual").rows([3]))


def test_suffixes_halve_down_to_a_block() -> None:
    assert cache.suffix_lengths(8, 32) == (256, 128, 64, 32)
    assert cache.suffix_lengths(5, 4) == (20, 12, 8, 4)
    assert cache.suffix_lengths(1, 7) == (7,)
