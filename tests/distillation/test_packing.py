"""Packed rows are learned from exactly as rows that have a canvas each."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.corruption.masking import DiffusionMasks, NestedMasks
from cd4lm_jax.corruption.views import Batch, States
from cd4lm_jax.data.packing import NONE, pack
from cd4lm_jax.distillation.curriculum import LambdaCurriculum
from cd4lm_jax.distillation.learner import Learner
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.optimizer import OptimizerConfig
from cd4lm_jax.distillation.rollout import Rollout
from cd4lm_jax.distillation.trainer import train
from cd4lm_jax.distillation.validation import evaluate
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.transformer import Execution
from tests import pens
from tests.tiny import TINY, tiny_model

LENGTH, MOST, ROWS = 40, 4, 8
EXECUTION = Execution(scan_layers=False)
SMALL = dataclasses.replace(TINY, num_layers=1)
KEY = jax.random.key(3)
BLOCKS = dataclasses.replace(TINY, attention="block", blocks="sequence", block_length=4)
SHIFTED = dataclasses.replace(TINY, alignment="shifted")


def rows() -> Batch:
    """Rows of 9 to 20 tokens, the last 6 to 12 of them the answer, junk behind."""
    rng = np.random.default_rng(0)
    lengths, answers = rng.integers(9, 21, ROWS), rng.integers(6, 9, ROWS)
    place = np.arange(LENGTH)
    valid = place < lengths[:, None]
    return Batch(
        tokens=jnp.asarray(rng.integers(0, 37, (ROWS, LENGTH)), jnp.int32),
        valid=jnp.asarray(valid),
        answer=jnp.asarray(valid & (place >= (lengths - answers)[:, None])),
        index=jnp.arange(ROWS) + 5,
    )


def packed(batch: Batch, canvases: int = 4) -> Batch:
    """The same rows on shared canvases, some of which lack rows."""
    lengths = np.asarray(batch.valid.sum(axis=1))
    plan = pack(lengths, LENGTH, MOST)
    plan = np.pad(plan, ((0, canvases - len(plan)), (0, 0)), constant_values=NONE)
    flat = plan.reshape(-1)
    there = jnp.asarray(flat != NONE)
    taken = np.maximum(flat, 0)
    sizes = np.where(plan == NONE, 0, lengths[np.maximum(plan, 0)])
    starts = np.where(plan == NONE, LENGTH, np.cumsum(sizes, axis=1) - sizes)
    return Batch(
        tokens=batch.tokens[taken],
        valid=batch.valid[taken] & there[:, None],
        answer=batch.answer[taken] & there[:, None],
        index=batch.index[taken],
        starts=jnp.asarray(starts, jnp.int32),
    )


def test_canvases_hold_every_row_once() -> None:
    batch = rows()
    shared = packed(batch)
    assert shared.canvases == 4 < ROWS
    canvas = np.asarray(shared.on_canvas(shared.tokens))
    segments = np.asarray(shared.segments)
    assert canvas.shape == segments.shape == (4, LENGTH)
    found = [
        tuple(canvas[c][segments[c] == s].tolist())
        for c in range(4)
        for s in range(MOST)
        if (segments[c] == s).any()
    ]
    expected = [tuple(t[v].tolist()) for t, v in zip(batch.tokens, batch.valid, strict=True)]
    assert sorted(found) == sorted(expected)
    back = shared.of_rows(shared.on_canvas(shared.tokens))
    np.testing.assert_array_equal(back, np.where(shared.valid, shared.tokens, 0))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [TINY, SHIFTED, BLOCKS], ids=["full", "shifted", "blocks"])
def test_hidden_states_are_those_of_rows_alone(architecture: ModelConfig) -> None:
    model = tiny_model(architecture, EXECUTION)
    batch = rows()
    shared = packed(batch)

    @jax.jit
    def alone(batch: Batch) -> jax.Array:
        if architecture is BLOCKS:
            return model.noisy_hidden(noisy(batch), batch.tokens, batch.valid)
        return model.hidden(batch.tokens, batch.valid)

    @jax.jit
    def together(batch: Batch) -> jax.Array:
        tokens, valid = batch.on_canvas(batch.tokens), batch.on_canvas(batch.valid)
        if architecture is BLOCKS:
            shown = batch.on_canvas(noisy(batch))
            return model.noisy_hidden(shown, tokens, valid, segments=batch.segments)
        return model.hidden(tokens, valid, segments=batch.segments)

    def noisy(batch: Batch) -> jax.Array:
        return jnp.where(batch.answer, model.config.mask_id, batch.tokens)

    canvas = np.asarray(together(shared))
    rows_of = {int(i): n for n, i in enumerate(batch.index)}
    expected = np.asarray(alone(batch))
    starts = np.asarray(shared.starts)
    checked = 0
    for number, size in enumerate(np.asarray(shared.valid.sum(axis=1))):
        if size:
            c, s = divmod(number, MOST)
            found = canvas[c, starts[c, s] : starts[c, s] + size]
            row = rows_of[int(shared.index[number])]
            np.testing.assert_allclose(found, expected[row, :size], atol=2e-5)
            checked += 1
    assert checked == ROWS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("states", "accumulate"),
    [
        (NestedMasks(blockwise=0.5, block_length=4), 1),
        (DiffusionMasks(), 2),
        (Rollout(tokens="policy", reveal_ratio=(0.0, 1.0), block_length=4, passes=2), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_losses_and_gradients_are_those_of_rows_alone(states: States, accumulate: int) -> None:
    learn = Learner(
        corruption=states,
        objective=Objective(temperature=1.0, entropy_weight=1.0),
        curriculum=LambdaCurriculum(),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        total_steps=10,
        seed=0,
        accumulate=accumulate,
    )
    student = tiny_model(SMALL, EXECUTION, sharpness=2.0)
    teacher = tiny_model(SMALL, EXECUTION, seed=1, sharpness=2.0) if states.teaches else None

    @jax.jit
    def run(batch: Batch) -> Any:
        learned = learn.loss_and_gradient(student, teacher, batch, KEY, jnp.float32(0.7))
        return *learned, evaluate(learn, student, teacher, batch)

    batch = rows()
    (one, gradient, validated), (other, also, validated_too) = run(batch), run(packed(batch))
    assert float(one.total) > 0
    np.testing.assert_allclose([*map(float, other)], [*map(float, one)], rtol=2e-5, atol=1e-6)
    leaves = jax.tree.leaves(jax.device_get(gradient))
    assert max(np.abs(leaf).max() for leaf in leaves) > 1e-3
    for mine, its in zip(leaves, jax.tree.leaves(jax.device_get(also)), strict=True):
        np.testing.assert_allclose(its, mine, rtol=1e-3, atol=2e-6)
    for name, value in validated.items():
        assert float(validated_too[name]) == pytest.approx(float(value), rel=2e-5, abs=1e-6)


def test_neighbours_do_not_change_a_row() -> None:
    """Other text in the rest of a canvas leaves a row's hidden states as they were, to the bit."""
    model = tiny_model(TINY, EXECUTION)
    shared = packed(rows())
    canvas, valid = shared.on_canvas(shared.tokens), shared.on_canvas(shared.valid)
    segments = shared.segments
    assert segments is not None
    hidden = jax.jit(lambda tokens: model.hidden(tokens, valid, segments=segments))
    other = jnp.where(segments == 1, canvas, (canvas + 7) % 37)
    before, after = np.asarray(hidden(canvas)), np.asarray(hidden(other))
    own = np.asarray(segments == 1)
    np.testing.assert_array_equal(after[own], before[own])
    assert np.abs(after[~own] - before[~own]).max() > 0.1


@pytest.mark.slow
def test_a_run_packs_its_rows_and_says_so(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = pens.config(tmp_path)
    data = dataclasses.replace(plain.data, max_length=128, batch_size=1, pack=3)
    config = dataclasses.replace(
        plain, steps=6, data=data, validation=data, optimizer=plain.optimizer
    )
    train(config)
    folder = pathlib.Path(config.output)
    found = json.loads((folder / "data.json").read_text())
    assert list(found) == ["data", "validation"]
    counts = found["data"]["counts"]
    assert (counts["rows"], counts["taken"], counts["canvases"]) == (8, 8, 3)
    assert counts["answer_tokens"] == 8 * 16
    assert counts["tokens"] == 8 * 40 < counts["canvas_tokens"] == 3 * 128
    said = capfd.readouterr().err
    assert "data: " in said
    assert "3 canvases, 83.3% full" in said
    assert re.search(r"[1-9][0-9,]* tokens/s", said)
    with pytest.raises(ValueError, match="micro_batch=1 averages the losses of so many rows"):
        dataclasses.replace(config, micro_batch=1)
