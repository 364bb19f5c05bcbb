"""States of a model's own CAD on a text: what the decoder itself does, and what always holds."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.corruption.views import Batch
from cd4lm_jax.decoding import batching as decoding
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.distillation.curriculum import Distance, LambdaCurriculum
from cd4lm_jax.distillation.learner import Learner
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.optimizer import OptimizerConfig
from cd4lm_jax.distillation.rollout import Rollout, Start, State
from cd4lm_jax.distillation.validation import evaluate
from cd4lm_jax.models.transformer import Execution, Transformer
from tests.tiny import TINY_TALKER, parameters, tiny_model

pytestmark = pytest.mark.slow

PROMPT, ANSWER, BLOCK, ROWS = 6, 16, 8, 12
EXECUTION = Execution(scan_layers=False)
MODEL = tiny_model(TINY_TALKER, EXECUTION, sharpness=2.5)
TEACHER = tiny_model(TINY_TALKER, EXECUTION, seed=1, sharpness=2.5)
KEY = jax.random.key(5)
ROLLOUT = Rollout(passes=4, block_length=BLOCK, threshold=(0.3, 0.8))
LEARNER = Learner(
    corruption=ROLLOUT,
    objective=Objective(),
    curriculum=LambdaCurriculum(),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1),
    total_steps=10,
    seed=0,
)


def batch(padding: int = 0, answer: int = ANSWER) -> Batch:
    """Prompts of 6 tokens, answers of 16 that end at unlike places, junk behind."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 10, (ROWS, PROMPT + answer))
    for row in range(ROWS):
        tokens[row, PROMPT + row + 1 :] = TINY_TALKER.eos_id
    tokens = np.pad(tokens, ((0, 0), (0, padding)), constant_values=5)
    place = np.tile(np.arange(tokens.shape[1]), (ROWS, 1))
    valid = place < PROMPT + answer
    return Batch(
        tokens=jnp.asarray(tokens, jnp.int32),
        valid=jnp.asarray(valid),
        answer=jnp.asarray(valid & (place >= PROMPT)),
        index=jnp.arange(ROWS) + 3,
    )


draw = jax.jit(Learner.views, static_argnums=0)


def views(learner: Learner = LEARNER, rows: Batch | None = None, distance: int = 1) -> Any:
    rows = batch() if rows is None else rows
    return jax.device_get(draw(learner, MODEL, TEACHER, rows, KEY, distance))


def with_states(**changes: Any) -> Learner:
    return dataclasses.replace(LEARNER, corruption=dataclasses.replace(ROLLOUT, **changes))


def start_of(rows: Batch, passes: int, threshold: float) -> Start:
    """Everything is masked, and of so many passes everything is revealed."""
    return Start(
        masked=rows.answer,
        passes=jnp.full((ROWS, 1), passes),
        threshold=jnp.full((ROWS, 1), threshold, jnp.float32),
        reveal=jnp.zeros(rows.answer.shape),
    )


def from_the_start(
    passes: int, threshold: float, rows: Batch, model: Transformer = MODEL
) -> np.ndarray:
    """What is masked so many passes after everything was."""
    start = start_of(rows, passes, threshold)
    return np.asarray(jax.jit(ROLLOUT.student)(model, rows, start).masked)


# Its first block begins with the end of the prompt; the last one ends where the answer does.
BY_BLOCKS = dataclasses.replace(
    TINY_TALKER, attention="block", block_length=BLOCK, blocks="sequence"
)


@pytest.mark.parametrize(
    ("model", "answer"),
    [(MODEL, ANSWER), (tiny_model(BY_BLOCKS, EXECUTION, sharpness=2.5), ANSWER + 2)],
    ids=["full", "block"],
)
def test_on_its_own_answers_they_are_the_states_of_the_decoder(
    model: Transformer, answer: int
) -> None:
    rng, threshold = np.random.default_rng(1), 0.5
    prompts = rng.integers(5, 10, (ROWS, PROMPT))
    options = DecodeConfig(
        rule=ConfidenceAdaptive(threshold=threshold),
        gen_length=answer,
        block_length=BLOCK,
        stop_at_eos=True,
    )
    decoded = decoding.decode(model, prompts.tolist(), options).trajectory
    rows = dataclasses.replace(
        batch(answer=answer),
        tokens=jnp.asarray(np.concatenate([prompts, decoded.tokens[:, :answer]], axis=1)),
    )
    compared = 0
    for passes in range(6):
        hidden = from_the_start(passes, threshold, rows, model)[:, PROMPT:]
        for row in np.flatnonzero(decoded.nfe > passes):
            # What the end left over was never committed.
            at = decoded.committed_at[row, :answer]
            late = (at > passes) | (at == 0)
            np.testing.assert_array_equal(hidden[row], late)
            compared += 1
    assert compared > 2 * ROWS
    assert decoded.nfe.max() > 4


def test_with_its_own_tokens_they_are_those_states_on_any_text() -> None:
    rows, threshold = batch(), 0.5
    own = dataclasses.replace(ROLLOUT, tokens="policy")
    options = DecodeConfig(
        rule=ConfidenceAdaptive(threshold=threshold),
        gen_length=ANSWER,
        block_length=BLOCK,
        stop_at_eos=False,
    )
    decoded = decoding.decode(
        MODEL,
        np.asarray(rows.tokens)[:, :PROMPT].tolist(),
        options,
    ).trajectory
    assert (decoded.tokens != np.asarray(rows.tokens)[:, PROMPT:]).any(axis=1).all()
    advance = jax.jit(own.teacher)
    begin = State(rows.tokens, rows.answer)
    start = start_of(rows, 0, threshold)
    for passes in range(int(decoded.nfe.max()) + 1):
        tokens, hidden = (
            np.asarray(array)[:, PROMPT:] for array in advance(MODEL, rows, start, begin, passes)
        )
        there = decoded.committed_at <= passes
        np.testing.assert_array_equal(hidden, ~there)
        np.testing.assert_array_equal(tokens[there], decoded.tokens[there])
    assert not hidden.any()
    # An update shows them to the student, and what the teacher sees beyond it is learnt.
    learner = with_states(tokens="policy")
    masks = jax.device_get(draw(learner, MODEL, TEACHER, rows, KEY, 2))
    text = jax.device_get(rows)
    np.testing.assert_array_equal(masks.tokens[masks.teacher], text.tokens[masks.teacher])
    revealed = masks.student & ~masks.teacher
    assert (masks.tokens[revealed] != text.tokens[revealed]).any()
    np.testing.assert_array_equal(masks.tokens[:, :PROMPT], text.tokens[:, :PROMPT])


def test_each_state_holds_the_next_and_the_end_is_never_reached() -> None:
    rows = batch()
    states = [from_the_start(passes, 0.5, rows) for passes in range(8)]
    np.testing.assert_array_equal(states[0], rows.answer)
    for before, after in itertools.pairwise(states):
        assert not (after & ~before).any()
    # Rows that end soon stay at their last state: a text with nothing hidden teaches nothing.
    text = np.arange(ANSWER) <= np.arange(ROWS)[:, None] + 1
    for state in states:
        assert (state[:, PROMPT:] & text).any(axis=1).all()
    assert (states[6] != states[7]).any(axis=1).sum() < ROWS


@pytest.mark.parametrize("policy", ["student", "teacher"])
def test_a_block_is_open_nothing_before_it_hidden_all_after_it(policy: Any) -> None:
    _, student, teacher, weight, _ = views(with_states(policy=policy))
    answer = np.asarray(batch().answer)
    assert not (student & ~answer).any()
    assert not (teacher & ~student).any()
    assert (teacher.sum(axis=1) < student.sum(axis=1)).all()
    blocks = student[:, PROMPT:].reshape(ROWS, -1, BLOCK)
    first = blocks.any(axis=2).argmax(axis=1)
    opened = np.zeros_like(student)
    for row, block in enumerate(first):
        assert blocks[row, block + 1 :].all()
        begin = PROMPT + block * BLOCK
        opened[row, begin : begin + BLOCK] = student[row, begin : begin + BLOCK]
    np.testing.assert_allclose(weight, opened / opened.sum(), rtol=1e-6)
    # No row begins after its text's end, which rows up to the sixth have in the first block.
    assert (first[:6] == 0).all()
    assert set(first) == {0, 1}
    # States of unlike age, some of them a block's first.
    sizes = blocks[np.arange(ROWS), first].sum(axis=1)
    assert sizes.max() == BLOCK > sizes.min()


def test_the_teacher_stands_further_on_with_the_distance() -> None:
    hidden = [views(distance=distance).teacher for distance in (1, 2, 3)]
    student = views(distance=3).student
    for nearer, farther in itertools.pairwise([student, *hidden]):
        assert not (farther & ~nearer).any()
        assert farther.sum() < nearer.sum()


def test_the_teacher_is_shown_a_share_of_what_comes_and_the_rest_is_learned() -> None:
    whole, part, least = (
        views(with_states(tokens="policy", reveal_ratio=ratio), distance=3)
        for ratio in ((1.0, 1.0), (0.4, 0.6), (0.0, 0.0))
    )
    for some in (part, least):
        np.testing.assert_array_equal(some.student, whole.student)
        assert not (whole.teacher & ~some.teacher).any()
        assert not (some.teacher & ~some.student).any()
    new = (whole.student & ~whole.teacher).sum(axis=1)
    assert ((part.student & ~part.teacher).sum() / new.sum()) == pytest.approx(0.5, abs=0.15)
    np.testing.assert_array_equal((least.student & ~least.teacher).sum(axis=1), 1)
    # What the teacher is shown is the student's prediction.
    for some in (whole, part, least):
        assert not some.weight[~some.teacher].any()
        assert some.weight.sum() == pytest.approx(1)


def test_the_policy_and_the_threshold_matter() -> None:
    own, others = (views(with_states(policy=policy)).student for policy in ("student", "teacher"))
    assert (own != others).any()
    shy, bold = (views(with_states(threshold=(t, t))).student.sum() for t in (1.0, 0.0))
    assert shy > bold


def test_a_row_depends_on_neither_its_company_nor_padding() -> None:
    order = np.array([5, 0, 11, 3, 3, 7, 1, 2, 9, 10, 4, 6])
    mine = views()
    theirs = views(rows=jax.tree.map(lambda array: array[order], batch(padding=5)))
    for one, other in ((mine.student, theirs.student), (mine.teacher, theirs.teacher)):
        np.testing.assert_array_equal(other[:, : PROMPT + ANSWER], one[order])
        assert not other[:, PROMPT + ANSWER :].any()


def test_in_parts_they_are_the_same() -> None:
    whole, parts = views(), views(dataclasses.replace(LEARNER, accumulate=3))
    jax.tree.map(np.testing.assert_array_equal, parts, whole)


def test_a_row_without_an_answer_is_left_alone() -> None:
    rows = dataclasses.replace(batch(), answer=batch().answer.at[2].set(False))
    _, student, teacher, weight, _ = views(rows=rows)
    assert not student[2].any()
    assert not teacher[2].any()
    assert weight[2].sum() == 0
    assert weight.sum() == pytest.approx(1)


def test_validation_does_not_move_with_the_student() -> None:
    scores = jax.jit(functools.partial(evaluate, LEARNER))(MODEL, TEACHER, batch())
    # The text alone, in masks that depend on no model.
    assert scores.keys() == {"loss", "ce", "divisor"}
    start = ROLLOUT.start(jax.random.fold_in(jax.random.key(0), 2**32 - 1), batch(), MODEL.config)
    fixed = ROLLOUT.shown(batch(), MODEL.config, batch().tokens, start.masked, start.masked)
    expected = jax.jit(LEARNER.loss)(MODEL, None, batch(), fixed, 0.0).total
    assert scores["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_the_average_follows_the_student_and_teaches() -> None:
    share = 0.8
    learner = dataclasses.replace(LEARNER, average=share, distance=Distance(final=2))
    state = jax.jit(learner.init)(MODEL)
    expected, update = parameters(MODEL), jax.jit(learner.update, donate_argnums=0)
    for step in range(3):
        state, metrics = update(state, None, batch())
        assert metrics["lambda"] == pytest.approx(float(learner.curriculum(step, 10)))
        for name, leaf in parameters(state.model).items():
            expected[name] = share * expected[name] + (1 - share) * leaf
    for name, leaf in parameters(state.average).items():
        np.testing.assert_allclose(leaf, expected[name], atol=1e-6, err_msg=name)
    # It is at first the student itself, which sees more: its own distribution is matched.
    one = jax.jit(learner.update)(jax.jit(learner.init)(MODEL), None, batch())[1]
    other = jax.jit(LEARNER.update)(jax.jit(LEARNER.init)(MODEL), MODEL, batch())[1]
    assert one["kl"] == pytest.approx(float(other["kl"]), rel=1e-5)


def test_the_average_leaves_out_what_was_not_finite() -> None:
    learner = dataclasses.replace(LEARNER, average=0.5)
    state = jax.jit(learner.init)(MODEL)
    broken = state._replace(model=jax.tree.map(lambda leaf: leaf * jnp.nan, state.model))
    after, metrics = jax.jit(learner.update)(broken, None, batch())
    assert int(metrics["bad_steps"]) == 1
    jax.tree.map(np.testing.assert_array_equal, after.average, state.average)


def test_the_distance_grows_in_equal_stretches() -> None:
    distance = Distance(initial=1, final=3)
    assert [int(distance(step, 9)) for step in range(10)] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert int(Distance()(5, 9)) == 1


def test_says_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"corruption\.passes=0 and .*; give 1 or more of each"):
        Rollout(passes=0)
    for name in ("threshold", "reveal_ratio"):
        with pytest.raises(
            ValueError, match=rf"corruption\.{name}=\(0\.9, 0\.5\); give two shares"
        ):
            Rollout(**{name: (0.9, 0.5)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"distance\.initial=2 and distance\.final=1; give 1"):
        Distance(initial=2)
    with pytest.raises(ValueError, match=r"average=1\.0; give a share of 0 or more and below 1"):
        dataclasses.replace(LEARNER, average=1.0)
