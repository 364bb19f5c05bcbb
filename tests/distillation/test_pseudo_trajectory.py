"""d3LLM's states: the teacher's own order on its own answers, and the curriculum."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.corruption.views import Batch, Models
from cd4lm_jax.decoding import batching as decoding
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.distillation.config import TrainConfig, TrainingError
from cd4lm_jax.distillation.pseudo_trajectory import PseudoTrajectory, Start
from cd4lm_jax.models.transformer import Execution
from tests.tiny import TINY_TALKER, tiny_model

PROMPT, ANSWER, WINDOW, ROWS = 6, 16, 8, 12
MODEL = tiny_model(TINY_TALKER, Execution(scan_layers=False), sharpness=2.5)
STATES = PseudoTrajectory(window=(4, WINDOW), ratio=(0.0, 0.75), passes=2)


def batch(answers: np.ndarray | None = None) -> Batch:
    rng = np.random.default_rng(1)
    tokens = rng.integers(5, 10, (ROWS, PROMPT + ANSWER))
    if answers is not None:
        tokens[:, PROMPT:] = answers
    answer = np.tile(np.arange(PROMPT + ANSWER) >= PROMPT, (ROWS, 1))
    return Batch(
        tokens=jnp.asarray(tokens, jnp.int32),
        valid=jnp.ones_like(jnp.asarray(answer)),
        answer=jnp.asarray(answer),
        index=jnp.arange(ROWS),
    )


def views(progress: float, states: PseudoTrajectory = STATES, step: int = 0) -> Any:
    models = Models(MODEL, MODEL, progress=progress)
    draw = jax.jit(lambda key, rows: states.views(key, rows, models))
    return jax.device_get(draw(jax.random.key(step), batch()))


@pytest.mark.slow
def test_on_the_teachers_own_answers_a_pass_a_token_is_its_own_decode() -> None:
    prompts = np.asarray(batch().tokens)[:, :PROMPT].tolist()
    config = DecodeConfig(gen_length=ANSWER, block_length=WINDOW).fixed()
    decoded = decoding.decode(MODEL, prompts, config).trajectory
    rows = batch(decoded.tokens)
    place = jnp.arange(PROMPT + ANSWER) - PROMPT
    states = dataclasses.replace(STATES, passes=WINDOW)
    committed = jax.jit(lambda start: states.committed(MODEL, rows, start))
    for window in range(ANSWER // WINDOW):
        for count in (1, 3, 6, WINDOW):
            start = Start(
                inside=jnp.broadcast_to(place // WINDOW == window, rows.tokens.shape)
                & (place >= 0),
                after=jnp.broadcast_to(place >= (window + 1) * WINDOW, rows.tokens.shape),
                committed=jnp.full((ROWS, 1), count),
                complement=jnp.zeros((ROWS, 1), bool),
            )
            at = decoded.committed_at - window * WINDOW
            np.testing.assert_array_equal(
                np.asarray(committed(start))[:, PROMPT:], (at >= 1) & (at <= count)
            )


@pytest.mark.slow
def test_windows_and_masked_shares_grow() -> None:
    complements, windows = set(), set()
    for step in range(3):
        for progress, length, least in ((0.0, 4, 0), (1.0, WINDOW, 6)):
            shown = views(progress, step=step)
            learned = np.asarray(shown.weight) > 0
            for row in range(ROWS):
                masked = np.flatnonzero(shown.student[row]) - PROMPT
                first = np.flatnonzero(~shown.student[row])[-1] - PROMPT + 1
                own = np.flatnonzero(learned[row]) - PROMPT
                # What is learned lies in one window, and all behind that is masked.
                assert len(set(own // length)) <= 1
                if own.size:
                    behind = set(range((own[0] // length + 1) * length, ANSWER))
                    assert set(masked) == set(own) | behind
                    windows.add((length, own[0] // length))
                assert first <= ANSWER
                if progress == 1.0:  # 6 of 8 masked, or the other 2
                    assert own.size in (least, WINDOW - least)
                    complements.add(own.size)
            assert shown.weight.sum() == pytest.approx(1.0)
    assert complements == {6, 2}
    assert windows >= {(4, 0), (4, 3), (8, 0), (8, 1)}


def test_validation_states_need_no_teacher_and_settings_are_checked() -> None:
    shown = STATES.validation_views(jax.random.key(0), batch(), Models(MODEL))
    assert shown.teacher is None
    learned = np.asarray(shown.weight > 0)
    assert (learned.sum(axis=1) == WINDOW).all()
    with pytest.raises(TrainingError, match="pseudo-trajectories are the teacher's"):
        TrainConfig(output="runs/x", steps=1, init="folder", corruption=STATES)
    for wrong in ({"window": (8, 4)}, {"passes": 0}, {"ratio": (0.9, 0.5)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            dataclasses.replace(STATES, **wrong)
