"""The same tokens in the same passes as the published CD4LM code (recorded in shared/golden).

Where the mask token is a position's best token, the published code chooses it, and the position
stays masked: the pass is wasted, or the mask is returned. This decoder never proposes it unless
asked to (`propose_mask`), so parity with those recordings is shown with the switch.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import cd4lm_jax as cd
from tests.decoding import reference
from tests.models import forward

# Each setting was recorded for a prompt of 9 tokens and one of 24; here they share a batch.
CAD = [(f"cad/{number}", f"cad/{number + 7}") for number in range(7)]
FIXED = [(f"fixed/9_{number}", f"fixed/24_{number}") for number in range(4)]
LONGEST = 128

Case = dict[str, Any]


@pytest.fixture(scope="module")
def cases(golden: pathlib.Path) -> dict[str, Case]:
    described = {case["case"]: case for case in json.loads((golden / "decoding.json").read_text())}
    with np.load(golden / "decoding.npz") as arrays:
        for name in arrays.files:
            case, _, part = name.rpartition("/")
            if case in described:
                described[case][part] = arrays[name].tolist()
    return described


@pytest.fixture(scope="module")
def model(golden: pathlib.Path) -> cd.LanguageModel:
    return cd.load(golden / "llada_tiny")


def rule(case: Case) -> cd.CommitRule:
    if "steps" in case:
        return cd.FixedStep(steps=case["steps"])
    most = {"min_tokens": case["min_tokens_per_step"], "max_tokens": case["max_tokens_per_step"]}
    if case.get("selection_method") == "entropy":
        return cd.NegativeEntropy(threshold=case["entropy_threshold"], **most)
    return cd.ConfidenceAdaptive(threshold=case["confidence_threshold"], **most)


def decode(
    model: cd.LanguageModel, cases: dict[str, Case], names: tuple[str, str], **settings: Any
) -> cd.Decoded:
    case, other = (cases[name] for name in names)
    own = ("case", "prompt", "output", "nfe", "tokens_per_step", "block_of_step")
    assert all(case[key] == other[key] for key in case if key not in own)
    return cd.decode(
        model,
        [case["prompt"], other["prompt"]],
        commit=rule(case),
        gen_length=case["gen_length"],
        block_length=case["block_length"],
        stop_at_eos=False,
        eos_gate_ratio=case.get("eos_threshold_ratio", 0.0),
        eos_token_ids=tuple(case.get("eos_token_ids", ())),
        max_steps_per_block=case.get("max_steps_per_block", 0),
        cfg_scale=case.get("cfg_scale", 0.0),
        **settings,
    )


@pytest.mark.parametrize("names", CAD, ids=lambda names: names[0])
def test_confidence_adaptive_decoding(
    model: cd.LanguageModel, cases: dict[str, Case], names: tuple[str, str]
) -> None:
    found = decode(model, cases, names, propose_mask=True)
    for row, case in enumerate(cases[name] for name in names):
        expected = np.array(case["output"])
        kept = expected != case["mask_token_id"]  # a mask that they return is an EOS here
        np.testing.assert_array_equal(found.trajectory.tokens[row][kept], expected[kept])
        assert found.nfe[row] == case["nfe"]
        if sum(case["tokens_per_step"]) == case["gen_length"]:  # no position was chosen twice
            per_pass = np.bincount(found.trajectory.committed_at[row])[1:]
            assert per_pass.tolist() == case["tokens_per_step"]


def test_half_of_the_recordings_need_no_switch(
    model: cd.LanguageModel, cases: dict[str, Case]
) -> None:
    agree = []
    for names in CAD:
        found = decode(model, cases, names)
        for row, name in enumerate(names):
            assert (found.trajectory.tokens[row] != cases[name]["mask_token_id"]).all()
            if found.trajectory.tokens[row].tolist() == cases[name]["output"]:
                assert found.nfe[row] == cases[name]["nfe"]
                agree.append(int(name.removeprefix("cad/")))
    assert sorted(agree) == [0, 3, 4, 5, 6, 8, 12]


@pytest.mark.parametrize("names", FIXED, ids=lambda names: names[0])
def test_fixed_step_decoding(
    model: cd.LanguageModel, cases: dict[str, Case], names: tuple[str, str]
) -> None:
    """Published loop with masks proposed: the recording. Without: this decoder."""
    found = decode(model, cases, names).trajectory.tokens.tolist()
    for name, tokens in zip(names, found, strict=True):
        case = cases[name]
        assert published_fixed_step(model, case, propose_mask=True) == case["output"]
        assert published_fixed_step(model, case, propose_mask=False) == tokens
        if name in ("fixed/9_0", "fixed/9_2", "fixed/9_3", "fixed/24_1"):  # no mask is ever best
            assert tokens == case["output"]


def published_fixed_step(model: cd.LanguageModel, case: Case, *, propose_mask: bool) -> list[int]:
    """LLaDA's low-confidence sampler, in which `token == mask_id` says what is to be decoded."""
    mask, size = case["mask_token_id"], case["block_length"]
    start = len(case["prompt"])
    tokens = np.array(case["prompt"] + [mask] * case["gen_length"])
    for end in range(start + size, len(tokens) + 1, size):
        for count in reference.shares(size, case["steps"] // (case["gen_length"] // size)):
            logits = guided(model, case, tokens)
            if not propose_mask:
                logits[:, mask] = -np.inf
            best = logits.argmax(axis=-1)
            weight = np.exp(logits - logits.max(axis=-1, keepdims=True))
            confidence = weight.max(axis=-1) / weight.sum(axis=-1)
            # Masks that earlier blocks left behind are candidates again.
            left = np.flatnonzero(tokens[:end] == mask)
            chosen = left[np.argsort(-confidence[left], kind="stable")[:count]]
            tokens[chosen] = best[chosen]
    return [int(token) for token in tokens[start:]]


def guided(model: cd.LanguageModel, case: Case, tokens: np.ndarray) -> np.ndarray:
    with_prompt = logits_of(model, tokens)
    if not case.get("cfg_scale"):
        return with_prompt
    hidden = np.where(np.arange(len(tokens)) < len(case["prompt"]), case["mask_token_id"], tokens)
    without = logits_of(model, hidden)
    return without + (case["cfg_scale"] + 1) * (with_prompt - without)


def logits_of(model: cd.LanguageModel, tokens: np.ndarray) -> np.ndarray:
    row = np.zeros((1, LONGEST), np.int32)
    row[0, : len(tokens)] = tokens
    valid = np.arange(LONGEST)[None] < len(tokens)
    logits = forward(model.transformer, jnp.asarray(row), jnp.asarray(valid))
    return np.asarray(logits, np.float64)[0, : len(tokens)]
