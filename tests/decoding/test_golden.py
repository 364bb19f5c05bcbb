"""The same tokens in the same passes as the published CD4LM code (recorded in tests/golden).

Where the mask token is a position's best token, the published code chooses it, and the position
stays masked: the pass is wasted, or the mask is returned. This decoder never proposes it unless
asked to (`propose_mask`), so parity with those recordings is shown with the switch.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

import cd4lm_jax as cd
from tests.decoding.recordings import CAD, FIXED, Case, load

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cases(golden: pathlib.Path) -> dict[str, Case]:
    return load(golden)


@pytest.fixture(scope="module")
def model(golden: pathlib.Path) -> cd.LanguageModel:
    return cd.load(golden / "llada_tiny")


def rule(case: Case) -> cd.CommitRule:
    if "steps" in case:
        return cd.FixedStep(steps=case["steps"], two_pass_share=0.4)
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
        rule=rule(case),
        gen_length=case["gen_length"],
        block_length=case["block_length"],
        stop_at_eos=False,
        eos_gate_ratio=case.get("eos_threshold_ratio", 0.0),
        eos_token_ids=tuple(case.get("eos_token_ids", ())),
        max_steps_per_block=case.get("max_steps_per_block", 0),
        cfg_scale=case.get("cfg_scale", 0.0),
        **settings,
    )


def assert_recorded(found: cd.Decoded, row: int, case: Case) -> None:
    """The recording's tokens, and masked to the end exactly where it returns a mask."""
    expected = np.array(case["output"])
    masked = expected == case["mask_token_id"]
    np.testing.assert_array_equal(found.trajectory.tokens[row][~masked], expected[~masked])
    np.testing.assert_array_equal(found.trajectory.committed_at[row] == 0, masked)


@pytest.mark.parametrize("names", CAD, ids=lambda names: names[0])
def test_confidence_adaptive_decoding(
    model: cd.LanguageModel, cases: dict[str, Case], names: tuple[str, str]
) -> None:
    found = decode(model, cases, names, propose_mask=True)
    for row, case in enumerate(cases[name] for name in names):
        assert_recorded(found, row, case)
        assert found.nfe[row] == case["nfe"]
        if sum(case["tokens_per_step"]) == case["gen_length"]:  # no position was chosen twice
            per_pass = np.bincount(found.trajectory.committed_at[row])[1:]
            assert per_pass.tolist() == case["tokens_per_step"]


@pytest.mark.parametrize("names", FIXED, ids=lambda names: names[0])
def test_fixed_step_decoding(
    model: cd.LanguageModel, cases: dict[str, Case], names: tuple[str, str]
) -> None:
    found = decode(model, cases, names, propose_mask=True)
    for row, case in enumerate(cases[name] for name in names):
        assert_recorded(found, row, case)
        assert found.nfe[row] == case["steps"]


def test_half_of_the_recordings_need_no_switch(
    model: cd.LanguageModel, cases: dict[str, Case]
) -> None:
    agree = []
    for names in CAD + FIXED:
        found = decode(model, cases, names)
        for row, name in enumerate(names):
            assert (found.trajectory.tokens[row] != cases[name]["mask_token_id"]).all()
            if found.trajectory.tokens[row].tolist() == cases[name]["output"]:
                assert found.nfe[row] == cases[name].get("nfe", cases[name].get("steps"))
                agree.append(name)
    cad = [f"cad/{number}" for number in (0, 3, 4, 5, 6, 8, 12)]
    assert sorted(agree) == sorted([*cad, "fixed/9_0", "fixed/9_2", "fixed/9_3", "fixed/24_1"])
