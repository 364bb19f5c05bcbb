"""Several open blocks, blocks of the sequence and token editing: as the published code does it."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cd4lm_jax as cd
from cd4lm_jax.decoding import batching
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.decoding.rules import (
    ConfidenceAdaptive,
    EntropyBounded,
    Factor,
    FixedStep,
    Margin,
    NegativeEntropy,
)
from cd4lm_jax.decoding.schedules import BlockDiffusion
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.models.attention import positions_of
from cd4lm_jax.models.transformer import Transformer
from tests.decoding import reference_blocks
from tests.decoding.reference import Logits
from tests.tiny import TINY_TALKER, tiny_model

FULL = dataclasses.replace(TINY_TALKER, mask_id=0)
BLOCKS = dataclasses.replace(FULL, attention="block", blocks="sequence", block_length=4)
SHIFTED = dataclasses.replace(BLOCKS, alignment="shifted")
CONFIGS = {"full": FULL, "blocks": BLOCKS, "shifted": SHIFTED}
MODELS = {name: tiny_model(config, seed=4, sharpness=2.5) for name, config in CONFIGS.items()}
GEN, BLOCK, LONGEST = 16, 4, 40
SMALL = DecodeConfig(gen_length=GEN, block_length=BLOCK, batch_size=3)

rng = np.random.default_rng(11)
PROMPTS = [rng.integers(1, 10, length).tolist() for length in (5, 16, 2, 11, 8)]


@functools.partial(jax.jit, static_argnames="size")
def attend(model: Transformer, tokens: jax.Array, valid: jax.Array, size: int) -> jax.Array:
    groups = None if model.config.attention == "full" else positions_of(valid) // size
    return model(tokens, valid, None, groups)


def logits_of(model: Transformer, size: int = BLOCK) -> Logits:
    """The model on one row without any padding before it."""

    def logits(tokens: list[int]) -> np.ndarray:
        row = np.zeros((1, LONGEST), np.int32)
        row[0, : len(tokens)] = tokens
        valid = jnp.arange(LONGEST)[None] < len(tokens)
        return np.asarray(attend(model, jnp.asarray(row), valid, size))[0, : len(tokens)]

    return logits


def decode(name: str, prompts: list[list[int]] = PROMPTS, **changes: Any) -> Trajectory:
    config = dataclasses.replace(SMALL, **changes)
    return batching.decode(MODELS[name], prompts, config).trajectory


def same(first: Trajectory, second: Trajectory) -> None:
    for name in ("tokens", "committed_at", "reason", "nfe", "length"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    assert (first.edits is None) == (second.edits is None)
    if first.edits is not None and second.edits is not None:
        for name, values in vars(first.edits).items():
            np.testing.assert_array_equal(values, getattr(second.edits, name), err_msg=name)


RULES: dict[str, Any] = {
    "entropy": NegativeEntropy(threshold=-1.2),
    "confidence": ConfidenceAdaptive(threshold=0.5),
    "capped": ConfidenceAdaptive(threshold=0.2, min_tokens=2, max_tokens=3),
    "margin": Margin(threshold=0.4),
    "factor": Factor(factor=1.3),
    "entropy bound": EntropyBounded(bound=1.5),
    "fixed": FixedStep(steps=8),
    "block diffusion": BlockDiffusion(threshold=0.5, denoising_steps=3),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "two": {"lookahead": 2, "open_at": 0.25},
    "all": {"lookahead": 9, "open_at": 0.5},
    "at once": {"lookahead": 3, "open_at": 0.0, "max_steps_per_block": 2},
    "full first": {"lookahead": 4, "open_at": 1.0, "max_passes": 5},
    "edited": {"editing_threshold": 0.3, "max_post_steps": 3},
    "edited ahead": {"editing_threshold": 0.25, "lookahead": 2, "max_post_steps": 0},
    "plain": {},
}


# Every option with some model and rule, and every rule with some option: each pair compiles.
PLAIN_LOOP = [
    ("full", "two", "entropy"),
    ("full", "all", "factor"),
    ("full", "at once", "fixed"),
    ("full", "full first", "confidence"),
    ("full", "edited", "entropy bound"),
    ("full", "edited ahead", "margin"),
    ("blocks", "plain", "block diffusion"),
    ("blocks", "two", "capped"),
    ("blocks", "edited", "confidence"),
    ("shifted", "all", "block diffusion"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "option", "kind"), PLAIN_LOOP)
def test_equals_the_plain_loop(name: str, option: str, kind: str) -> None:
    rule = RULES[kind]
    for threshold in (0.2, 0.5, 0.8):  # where the rule has one: the same program
        if hasattr(rule, "threshold"):
            sign = -2.0 if kind == "entropy" else 1.0
            rule = dataclasses.replace(rule, threshold=sign * threshold)
        options = {**OPTIONS[option], "rule": rule}
        found = decode(name, **options)
        config = dataclasses.replace(SMALL, **options)
        for row, prompt in enumerate(PROMPTS):
            expected = reference_blocks.decode(
                logits_of(MODELS[name]), prompt, rule, CONFIGS[name], config
            )
            length = len(expected.tokens)
            assert found.tokens[row, :length].tolist() == expected.tokens
            assert found.committed_at[row, :length].tolist() == expected.committed_at
            assert found.nfe[row] == expected.nfe
            np.testing.assert_allclose(
                found.confidence[row, :length], expected.confidence, rtol=1e-4, atol=1e-6
            )
            assert (found.reason[row, length:] == Reason.TAIL).all()
            assert (found.tokens[row, length:] == FULL.eos_id).all()
            edited = found.reason[row, :length] == Reason.EDITED
            assert edited.tolist() == [why == Reason.EDITED for why in expected.reason]
            if found.edits is not None:
                assert found.edits.count[row] == expected.edits
                first = found.edits.first_tokens[row]
                assert {p: first[p] for p in np.flatnonzero(edited)} == expected.first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "option", "cache"),
    [
        ("full", "two", "dual"),
        ("full", "all", "prefix"),
        ("full", "edited", "dual"),
        ("blocks", "two", "none"),
        ("blocks", "edited", "prefix"),
    ],
)
def test_a_row_alone_equals_the_row_in_a_ragged_batch(name: str, option: str, cache: str) -> None:
    options = {**OPTIONS[option], "rule": RULES["confidence"], "cache": cache}
    together = decode(name, **options)
    for row, prompt in enumerate(PROMPTS):
        same(decode(name, [prompt], **options), together.rows([row]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "option", "rows"),
    [("blocks", "plain", 1), ("blocks", "two", 2), ("blocks", "edited", 1), ("shifted", "two", 1)],
)
def test_the_prefix_cache_is_exact_under_block_attention(name: str, option: str, rows: int) -> None:
    options = {**OPTIONS[option], "rule": RULES["confidence"], "stop_at_eos": False}
    same(decode(name, cache="prefix", refresh_rows=rows, **options), decode(name, **options))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "option"), [("full", "edited"), ("blocks", "two")])
def test_streamed_updates_add_up(name: str, option: str) -> None:
    config = dataclasses.replace(SMALL, rule=RULES["factor"], **OPTIONS[option])
    whole = decode(name, rule=config.rule, **OPTIONS[option])
    tokens = np.full_like(whole.tokens, FULL.eos_id)
    for update in batching.decode_stream(MODELS[name], PROMPTS, config):
        tokens[update.row, update.position] = update.tokens
    np.testing.assert_array_equal(tokens, whole.tokens)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "option"), [("full", "two"), ("blocks", "two")])
def test_given_positions_stay_and_the_cache_is_still_exact(name: str, option: str) -> None:
    given: list[list[int | None]]
    given = [[7, None, None, 7], [*[None] * 4, *[7] * 8], [*[7] * 12], [], [None, 7]]
    config = dataclasses.replace(SMALL, rule=RULES["confidence"], **OPTIONS[option])
    found = batching.decode(MODELS[name], PROMPTS, config, given).trajectory
    for row, fixed in enumerate(given):
        for position, token in enumerate(fixed):
            assert token is None or found.tokens[row, position] == token
            assert (token is not None) == (found.reason[row, position] == Reason.GIVEN)
    if name == "blocks":
        cached = dataclasses.replace(config, cache="prefix")
        same(batching.decode(MODELS[name], PROMPTS, cached, given).trajectory, found)


def cases(golden: pathlib.Path, file: str, kind: str) -> list[dict[str, Any]]:
    """The recordings of a kind with their settings."""
    described = json.loads((golden / f"{file}.json").read_text())
    if isinstance(described, dict):
        described = described["cases"]
    with np.load(golden / f"{file}.npz") as arrays:
        return [
            case | {part: arrays[f"{case['case']}/{part}"].tolist() for part in parts}
            for case in described
            if case["case"].startswith(f"{kind}/")
            for parts in [_parts(arrays.files, case["case"])]
        ]


def _parts(names: list[str], case: str) -> list[str]:
    return [name.removeprefix(f"{case}/") for name in names if name.startswith(f"{case}/")]


def test_several_blocks_at_once_as_d3llm_decodes(golden: pathlib.Path) -> None:
    model = cd.load(golden / "llada_tiny")
    for case in cases(golden, "multi_block", "multi_block"):
        found = cd.decode(
            model,
            [case["prompt"], case["prompt"][3:]],
            rule=NegativeEntropy(threshold=-case["entropy_threshold"]),
            gen_length=case["gen_length"],
            block_length=case["block_length"],
            lookahead=case["gen_length"] // case["block_length"],
            open_at=case["block_add_threshold"],
            propose_mask=True,
            stop_at_eos=False,
        )
        assert found.trajectory.tokens[0].tolist() == case["output"]
        assert found.trajectory.committed_at[0].tolist() == case["committed_at"]
        assert found.nfe[0] == case["nfe"]


@pytest.mark.parametrize("cache", ["none", "prefix"])
def test_block_diffusion_as_sdar_decodes(golden: pathlib.Path, cache: str) -> None:
    check_block_diffusion(golden, "sdar", cache)


def check_block_diffusion(golden: pathlib.Path, kind: str, cache: str) -> None:
    model = cd.load(golden / "families" / kind)
    for case in cases(golden, "families/families", kind):
        prompt = case["prompt"]
        found = cd.decode(
            model,
            [prompt, prompt[2:]],
            rule=BlockDiffusion(
                threshold=case["threshold"], denoising_steps=case["denoising_steps"]
            ),
            gen_length=case["gen_length"],
            block_length=case["block_length"],
            stop_at_eos=False,
            propose_mask=True,
            cache=cache,
        )
        length = len(case["output"]) - len(prompt)
        found_at = found.trajectory.committed_at[0]
        assert prompt + found.trajectory.tokens[0, :length].tolist() == case["output"]
        assert found_at[:length].tolist() == case["committed_at"][len(prompt) :]
        assert np.bincount(found_at[:length])[1:].tolist() == case["per_step"]
        assert found.nfe[0] == case["nfe"]


def test_a_model_of_blocks_has_its_own_block_length(golden: pathlib.Path) -> None:
    model = cd.load(golden / "families/sdar")
    found = cd.decode(model, [[5, 6, 7]], gen_length=9, stop_at_eos=False)
    # Three of the prompt and nine are three whole blocks of four.
    assert (found.trajectory.committed_at[0] > 0).sum() == 9
    assert DecodeConfig.for_model(model.transformer.config).block_length == 4


@pytest.mark.parametrize("cache", ["none", "prefix"])
def test_block_diffusion_as_llada2_decodes(golden: pathlib.Path, cache: str) -> None:
    check_block_diffusion(golden, "llada2_moe", cache)


def test_editing_as_llada2_decodes(golden: pathlib.Path) -> None:
    model = cd.load(golden / "families/llada2_moe")
    for case in cases(golden, "families/editing", "editing"):
        prompt = case["prompt"]
        found = cd.decode(
            model,
            [prompt, prompt[2:]],
            rule=ConfidenceAdaptive(threshold=case["threshold"]),
            gen_length=case["gen_length"],
            block_length=case["block_length"],
            editing_threshold=case["editing_threshold"],
            max_post_steps=case["max_post_steps"],
            stop_at_eos=False,
            propose_mask=True,
        )
        length = len(case["output"]) - len(prompt)
        assert prompt + found.trajectory.tokens[0, :length].tolist() == case["output"]
        assert found.nfe[0] == case["nfe"]
        assert found.trajectory.edits is not None
        assert found.trajectory.edits.count[0] == case["edits"]
        per_pass = np.bincount(found.trajectory.committed_at[0, :length], minlength=case["nfe"] + 1)
        assert per_pass[1:].tolist() == [commits for commits, _ in case["per_pass"]]
