"""Rows with settings of their own get what each gets alone, in slots of any order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from cd4lm_jax.decoding import batching, slots
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rules import (
    ConfidenceAdaptive,
    EntropyBounded,
    Factor,
    FixedStep,
    RandomStep,
)
from cd4lm_jax.decoding.schedules import DreamSchedule
from tests.tiny import TINY_TALKER, tiny_model

pytestmark = pytest.mark.slow

ROWS = 6
MODEL = tiny_model(TINY_TALKER, sharpness=3.0)

RULES: dict[type[Any], Callable[[np.random.Generator], dict[str, Any]]] = {
    ConfidenceAdaptive: lambda rng: {
        "threshold": float(rng.uniform(0.1, 0.9)),
        "min_tokens": int(rng.integers(1, 3)),
    },
    EntropyBounded: lambda rng: {"bound": float(rng.uniform(0.1, 3.0))},
    Factor: lambda rng: {"factor": float(rng.uniform(0.1, 3.0))},
    FixedStep: lambda rng: {"steps": int(rng.choice([0, 4, 8]))},
    RandomStep: lambda rng: {"steps": int(rng.choice([0, 4, 8]))},
    DreamSchedule: lambda rng: {
        "steps": int(rng.choice([0, 4, 8])),
        "alg_temp": float(rng.choice([0.0, 1.0])),
    },
}


def drawn(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "temperature": float(rng.uniform(0.2, 1.5)),
        "top_k": int(rng.choice([0, 3])),
        "top_p": float(rng.choice([0.8, 1.0])),
    }


@pytest.mark.parametrize(
    ("rule", "cache", "more"),
    [
        (ConfidenceAdaptive, "dual", drawn),
        (EntropyBounded, "none", lambda rng: {}),
        (Factor, "prefix", lambda rng: {}),
        (FixedStep, "none", drawn),
        (RandomStep, "dual", lambda rng: {"cfg_scale": float(rng.uniform(0.5, 2.0))}),
        (DreamSchedule, "none", drawn),
    ],
    ids=lambda part: getattr(part, "__name__", str(part)),
)
def test_each_row_is_decoded_as_alone(rule: type[Any], cache: Any, more: Any) -> None:
    rng = np.random.default_rng(0)
    configs = [
        DecodeConfig(
            rule=rule(**RULES[rule](rng)),
            gen_length=16,
            block_length=8,
            cache=cache,
            refresh_interval=0 if cache == "none" else int(rng.choice([0, 2])),
            seed=number,
            max_passes=int(rng.choice([0, 5])),
            max_steps_per_block=int(rng.choice([0, 3])),
            eos_gate_ratio=float(rng.choice([0.0, 0.5])),
            **more(rng),
        )
        for number in range(ROWS)
    ]
    prompts = [rng.integers(0, 10, int(rng.integers(1, 16))).tolist() for _ in configs]
    shape = configs[0].shape(MODEL.config)
    shape = dataclasses.replace(shape, truncated=shape.sampled)
    rows = [
        slots.row(
            prompt,
            [],
            config,
            shape,
            prompt_length=16,
            mask_id=MODEL.config.mask_id,
            number=number % 2,
        )
        for number, (prompt, config) in enumerate(zip(prompts, configs, strict=True))
    ]
    model = MODEL.by_layer()
    kept = slots.empty_cache(model, shape, 8, 16)
    place = np.array([3, 1, 0, 6, 7, 2], np.int32)
    while not all(row.canvas.done for row in rows):
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        canvas, kept = slots.advance_by(model, stacked, kept, place, 3, True, shape=shape)
        host = jax.device_get(canvas)
        rows = [
            row._replace(canvas=type(host)(*(leaf[at] for leaf in host)))
            for at, row in enumerate(rows)
        ]
    for number, (row, prompt, config) in enumerate(zip(rows, prompts, configs, strict=True)):
        alone = batching.decode(MODEL, [prompt], config, first=number % 2).trajectory
        canvas = row.canvas
        np.testing.assert_array_equal(canvas.committed_at, alone.committed_at[0])
        committed = alone.committed_at[0] > 0
        np.testing.assert_array_equal(canvas.tokens[-16:][committed], alone.tokens[0, committed])
        np.testing.assert_array_equal(canvas.reason, alone.reason[0])
        assert canvas.nfe == alone.nfe[0]


def test_an_eager_segment_ends_with_the_first_row_that_ends() -> None:
    rule = FixedStep()
    configs = [
        DecodeConfig(rule=rule, gen_length=16, block_length=8, max_passes=most, stop_at_eos=False)
        for most in (2, 9)
    ]
    shape = configs[0].shape(MODEL.config)
    rows = [
        slots.row([1, 2], [], config, shape, prompt_length=16, mask_id=MODEL.config.mask_id)
        for config in configs
    ]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    place = np.arange(2, dtype=np.int32)
    model = MODEL.by_layer()
    canvas, _ = slots.advance_by(model, stacked, None, place, 5, True, shape=shape)
    assert canvas.nfe.tolist() == [2, 2]
    canvas, _ = slots.advance_by(model, stacked, None, place, 5, False, shape=shape)
    assert canvas.nfe.tolist() == [2, 5]
