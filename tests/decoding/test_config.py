from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cd4lm_jax.decoding import stop
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.program import Limits, Shape
from tests.tiny import TINY

PLAIN = DecodeConfig(gen_length=16, block_length=8)
SHAPE = Shape(
    gen_length=16,
    block_length=8,
    eos_token_ids=TINY.end_ids,
    ends=stop.Ends(tokens=TINY.end_ids),
)


@pytest.mark.parametrize(
    ("options", "shape", "limits"),
    [
        ({}, {}, {}),
        (
            {"stop_at_eos": False, "eos_gate_ratio": 0.5, "eos_token_ids": (7,)},
            {"ends": None, "eos_token_ids": (7,)},
            {"eos_gate_ratio": 0.5},
        ),
        (
            {"stop_at_eos": False, "stop_sequences": ((1, 2),)},
            {"ends": stop.Ends(tokens=(), sequences=((1, 2),))},
            {},
        ),
        (
            {"max_steps_per_block": 4, "cfg_scale": 1.5, "suppress": (3,)},
            {"guided": True, "suppressed": (3,)},
            {"max_steps_per_block": 4, "cfg_scale": 1.5},
        ),
        (
            {"temperature": 0.7, "propose_mask": True},
            {"sampled": True, "propose_mask": True},
            {"temperature": 0.7},
        ),
        (
            {"temperature": 0.7, "top_k": 5, "top_p": 0.9},
            {"sampled": True, "truncated": True},
            {"temperature": 0.7, "top_k": 5, "top_p": 0.9},
        ),
        (
            {"cache": "dual", "refresh_interval": 4, "block_causal": True},
            {"cache": "dual", "block_causal": True},
            {"refresh_interval": 4},
        ),
    ],
)
def test_what_is_compiled_for_and_what_is_traced(
    options: dict[str, Any], shape: dict[str, Any], limits: dict[str, Any]
) -> None:
    chosen = dataclasses.replace(PLAIN, **options)
    assert chosen.shape(TINY) == dataclasses.replace(SHAPE, **shape)
    assert chosen.limits == Limits(**limits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eos_gate_ratio": 1.5}, "eos_gate_ratio=1.5 is no share; give one from 0 to 1"),
        ({"top_p": 0.0}, "top_p=0.0 is no probability; give one above 0 and up to 1"),
        ({"top_k": -1}, r"top_k=-1; give 0 \(off\) or more"),
        ({"max_passes": -1}, r"max_passes=-1; give 0 \(off\) or more"),
        ({"temperature": float("nan")}, "temperature=nan; give 0"),
        ({"top_k": 3}, "at temperature=0 nothing is drawn; give a temperature"),
        ({"refresh_interval": 3}, "cache=none keeps none; give cache=prefix or dual"),
        ({"cache_dtype": "int8"}, "cache=none keeps none; give cache=prefix or dual"),
        ({"cache": "dual", "cache_dtype": "fp8"}, "cache_dtype='fp8' is unknown; give model, int8"),
        ({"batch_size": 0}, "batch_size=0; give 1 or more"),
        ({"block_length": 5}, "gen_length=16 is not a multiple of block_length=5"),
        ({"cache": "half"}, "cache='half' is unknown; give none, prefix, dual"),
        ({"suppress": (40,)}, r"suppress=\(40,\) has an id outside the model's vocabulary of 40"),
        ({"stop_sequences": ((1, -1),)}, "stop_sequences=.* has an id outside"),
        ({"stop_sequences": ((1,), ())}, "a stop sequence is empty"),
    ],
)
def test_says_what_does_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAIN, **options).shape(TINY)
