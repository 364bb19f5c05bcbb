from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cd4lm_jax.corruption.masking import DiffusionMasks, NestedMasks
from cd4lm_jax.corruption.views import Batch, States
from cd4lm_jax.distillation.curriculum import LambdaCurriculum
from cd4lm_jax.distillation.learner import Learner
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.optimizer import OptimizerConfig
from cd4lm_jax.distillation.placement import placed_state
from cd4lm_jax.distillation.state import TrainState
from cd4lm_jax.distillation.validation import evaluate as evaluate_batch
from cd4lm_jax.models.transformer import Execution, Transformer
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
from tests.tiny import TINY, model_of, parameters, tiny_model

SMALL = dataclasses.replace(TINY, num_layers=1)
EXECUTION = Execution(scan_layers=False)
STEPS = 50
LEARNER = Learner(
    corruption=NestedMasks(),
    objective=Objective(),
    curriculum=LambdaCurriculum(),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=5),
    total_steps=STEPS,
    seed=0,
)

model = functools.partial(tiny_model, SMALL, EXECUTION)


def batch(padding: tuple[int, int] = (0, 0), rows: int = 4) -> Batch:
    """Rows of 6 prompt and 12 answer tokens, with junk as padding on either side."""
    rng = np.random.default_rng(0)
    answer = np.tile(np.arange(18) >= 6, (rows, 1))
    pad = ((0, 0), padding)
    return Batch(
        tokens=jnp.asarray(np.pad(rng.integers(0, 37, (rows, 18)), pad, constant_values=5)),
        valid=jnp.asarray(np.pad(np.ones_like(answer), pad)),
        answer=jnp.asarray(np.pad(answer, pad)),
        index=jnp.asarray(10 + np.arange(rows)),
    )


def poisoned(sound: Transformer) -> Transformer:
    leaves = parameters(sound)
    leaves["head"] = leaves["head"] * np.float32(np.nan)
    return model_of(SMALL, leaves, EXECUTION)


update = jax.jit(LEARNER.update)


@pytest.fixture(scope="module")
def start() -> TrainState:
    return jax.jit(LEARNER.init)(model())


def assert_same(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_learns_from_the_teacher_and_reports_its_terms(start: TrainState) -> None:
    teacher, state, history = model(seed=1), start, []
    for _ in range(STEPS):
        state, metrics = update(state, teacher, batch())
        history.append({name: float(value) for name, value in metrics.items()})
    assert int(state.step) == STEPS
    assert np.mean([m["ce"] for m in history[-5:]]) < 0.7 * history[0]["ce"]
    for step, m in enumerate(history):
        lam = float(LEARNER.curriculum(step, STEPS))
        assert m["lambda"] == pytest.approx(lam, abs=1e-6)
        assert m["loss"] == pytest.approx(lam * m["kl"] + (1 - lam) * m["ce"], rel=1e-5)
        assert m["learning_rate"] == pytest.approx(1e-2 * min(step / 5, 1))
        assert m["bad_steps"] == 0


def test_a_loss_that_is_not_finite_changes_nothing_and_is_counted(start: TrainState) -> None:
    teacher = model(seed=1)
    state, _ = update(start, teacher, batch())
    sound = state
    for count in (1, 2):
        state, metrics = update(state, poisoned(teacher), batch())
        assert np.isnan(metrics["loss"])
        assert int(metrics["bad_steps"]) == int(state.bad_steps) == count
    assert int(state.step) == 3
    assert_same((state.model, state.optimizer), (sound.model, sound.optimizer))
    state, metrics = update(state, teacher, batch())
    assert int(metrics["bad_steps"]) == int(state.bad_steps) == 0
    # It is the second update that is applied, at the rate of the second.
    assert metrics["learning_rate"] == pytest.approx(1e-2 / 5)
    assert np.any(state.model.head[...] != sound.model.head[...])


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_is_skipped_too(start: TrainState) -> None:
    # The squares of these gradients overflow in their norm; the loss itself is finite.
    leaves = parameters(model())
    leaves["norm"] = np.full_like(leaves["norm"], 1e-25)
    leaves["head"] = leaves["head"] * np.float32(1e25)
    steep = model_of(SMALL, leaves, EXECUTION)
    state, metrics = update(start._replace(model=steep), model(seed=1), batch())
    assert np.isfinite(metrics["loss"])
    assert not np.isfinite(metrics["gradient_norm"])
    assert int(state.bad_steps) == 1
    assert_same(state.model, steep)


@jax.jit
def loss_and_gradient(model: Transformer, teacher: Transformer, batch: Batch) -> Any:
    key = jax.random.key(7)

    terms, gradient = LEARNER.loss_and_gradient(model, teacher, batch, key, jnp.float32(0.7))
    return terms.total, gradient


@pytest.mark.slow
def test_padding_changes_neither_loss_nor_gradient() -> None:
    student, teacher = model(), model(seed=1)
    loss, gradient = loss_and_gradient(student, teacher, batch())
    more, same = loss_and_gradient(student, teacher, batch(padding=(3, 6)))
    assert more == pytest.approx(float(loss), rel=1e-5)
    for name, leaf in parameters(gradient).items():
        np.testing.assert_allclose(parameters(same)[name], leaf, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_order_of_rows_changes_neither_loss_nor_gradient() -> None:
    student, teacher = model(), model(seed=1)
    order = np.array([2, 0, 3, 1])
    shuffled = jax.tree.map(lambda array: array[order], batch())
    loss, gradient = loss_and_gradient(student, teacher, batch())
    other, same = loss_and_gradient(student, teacher, shuffled)
    assert other == pytest.approx(float(loss), rel=1e-5)
    for name, leaf in parameters(gradient).items():
        np.testing.assert_allclose(parameters(same)[name], leaf, atol=1e-5, err_msg=name)


def test_evaluation_is_the_same_at_any_time_and_counts_no_filling() -> None:
    evaluate = jax.jit(functools.partial(evaluate_batch, LEARNER))
    student, teacher = model(), model(seed=1)
    scores = evaluate(student, teacher, batch())
    assert scores.keys() == {"loss", "ce", "kl", "divisor"}
    assert_same(scores, evaluate(student, teacher, batch()))
    lam = LEARNER.curriculum.final
    assert scores["loss"] == pytest.approx(lam * scores["kl"] + (1 - lam) * scores["ce"])
    # The last batch of a split is filled up with rows that have no answer.
    full = batch()
    filled = dataclasses.replace(full, answer=full.answer.at[3].set(False))
    other = dataclasses.replace(
        filled, tokens=filled.tokens.at[3].set(filled.tokens[2]), index=filled.index.at[3].set(1)
    )
    assert_same(evaluate(student, teacher, filled), evaluate(student, teacher, other))
    assert evaluate(student, teacher, filled)["loss"] != scores["loss"]


def test_learning_rate_warms_up_stays_and_falls() -> None:
    rate = OptimizerConfig(learning_rate=1.0, warmup_steps=10, decay_share=0.25)
    values = [float(rate.learning_rate_at(100)(step)) for step in (0, 5, 10, 74, 75, 80, 90, 100)]
    assert values == pytest.approx([0, 0.5, 1, 1, 1, 0.8, 0.4, 0], abs=1e-6)
    constant = OptimizerConfig(learning_rate=1.0, warmup_steps=10).learning_rate_at(100)
    assert float(constant(100)) == 1
    assert float(OptimizerConfig(warmup_steps=0).learning_rate_at(20)(0)) == pytest.approx(5e-6)


def adamw(gradient: np.ndarray, weight: np.ndarray, settings: OptimizerConfig) -> np.ndarray:
    """AdamW's first update, as in its paper."""
    gradient = gradient * min(1.0, settings.clip_norm / np.linalg.norm(gradient))
    mean, square = (1 - settings.b1) * gradient, (1 - settings.b2) * gradient**2
    mean, square = mean / (1 - settings.b1), square / (1 - settings.b2)
    step = mean / (np.sqrt(square) + 1e-8) + settings.weight_decay * weight
    return -settings.learning_rate * step


def one_update(settings: OptimizerConfig, gradient: Any, weight: Any) -> Any:
    transform: optax.GradientTransformation = settings.build(100)

    @jax.jit
    def run(gradient: Any, weight: Any) -> Any:
        return transform.update(gradient, transform.init(weight), weight)[0]

    return run(gradient, weight)


def test_adamw_clips_first_and_decays_apart() -> None:
    rng = np.random.default_rng(0)
    settings = OptimizerConfig(learning_rate=0.1, warmup_steps=0, clip_norm=1e-7, weight_decay=0.3)
    gradient, weight = rng.standard_normal((2, 5), np.float32)
    expected = adamw(gradient.astype(np.float64), weight, settings)
    np.testing.assert_allclose(one_update(settings, gradient, weight), expected, rtol=1e-4)


def test_muon_takes_the_kernels_of_the_blocks_layer_by_layer() -> None:
    rng = np.random.default_rng(0)
    settings = OptimizerConfig(
        algorithm="muon", learning_rate=0.1, warmup_steps=0, weight_decay=0.0, clip_norm=1e9
    )
    gradient: dict[str, Any] = {
        "kernel": rng.standard_normal((2, 16, 8), np.float32),
        "table": np.ones((4, 3)),
    }
    weight = jax.tree.map(np.zeros_like, gradient)
    first = one_update(settings, gradient, weight)
    # Adam moves every entry alike, by about the rate; Muon's root mean square is a fifth of it.
    np.testing.assert_allclose(first["table"], -0.125, atol=0.03)
    rms = np.sqrt(np.mean(np.square(first["kernel"]), axis=(1, 2)))
    np.testing.assert_allclose(rms, 0.2 * 0.1, rtol=0.3)
    # All directions count alike, however unlike the gradient's were.
    assert np.linalg.cond(first["kernel"][0]) < 2 < np.linalg.cond(gradient["kernel"][0])
    other = gradient | {"kernel": gradient["kernel"] * np.array([1, -3], np.float32)[:, None, None]}
    second = one_update(settings, other, weight)
    np.testing.assert_allclose(second["kernel"][0], first["kernel"][0], rtol=1e-5)
    assert np.vdot(second["kernel"][1], first["kernel"][1]) < 0


@pytest.mark.slow
@pytest.mark.parametrize("masks", [NestedMasks(), DiffusionMasks()], ids=str)
def test_a_batch_in_parts_is_the_same_batch(masks: States) -> None:
    student, teacher, rows = model(), model(seed=1), batch(rows=8)
    whole = dataclasses.replace(LEARNER, corruption=masks)
    parts = dataclasses.replace(whole, accumulate=4)
    results = []
    for learner in (whole, parts):
        compute = jax.jit(learner.loss_and_gradient)
        results.append(compute(student, teacher, rows, jax.random.key(7), jnp.float32(0.7)))
    (terms, gradient), (same_terms, same) = results
    np.testing.assert_allclose(same_terms, terms, rtol=1e-5)
    expected = parameters(gradient)
    for name, leaf in parameters(same).items():
        np.testing.assert_allclose(leaf, expected[name], atol=1e-6, err_msg=name)


def test_says_what_cannot_be_done_in_parts() -> None:
    with pytest.raises(ValueError, match="accumulate=0; give 1"):
        dataclasses.replace(LEARNER, accumulate=0)
    with pytest.raises(ValueError, match="clamp bounds the loss of a whole batch"):
        dataclasses.replace(LEARNER, accumulate=2, objective=Objective(clamp=True))
    three = dataclasses.replace(LEARNER, accumulate=3)
    with pytest.raises(ValueError, match="accumulate=3 does not divide the batch of 4 rows"):
        jax.eval_shape(three.update, jax.eval_shape(LEARNER.init, model()), None, batch())


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_of_micro_batches_are_averaged(accumulate: int) -> None:
    student, teacher, rows = model(), model(seed=1), batch(rows=8)
    # Answers of unlike lengths, so that the mean of means is not the mean.
    lengths = jnp.array([12, 12, 1, 1, 12, 11, 2, 2])
    ragged = dataclasses.replace(rows, answer=rows.answer & (jnp.arange(18) < 6 + lengths[:, None]))
    whole = dataclasses.replace(LEARNER, accumulate=accumulate)
    averaged = dataclasses.replace(whole, micro_batch=2)
    arguments = (student, teacher, ragged, jax.random.key(7), jnp.float32(0.7))
    terms, gradient = jax.jit(averaged.loss_and_gradient)(*arguments)
    compute = jax.jit(LEARNER.loss_and_gradient)
    parts = []
    for first in range(0, 8, 2):
        pair = jax.tree.map(lambda array, at=first: array[at : at + 2], ragged)
        parts.append(compute(student, teacher, pair, *arguments[3:]))
    expected = jax.tree.map(lambda *each: sum(each) / len(each), *parts)
    np.testing.assert_allclose(terms, expected[0], rtol=1e-5)
    for name, leaf in parameters(gradient).items():
        np.testing.assert_allclose(leaf, parameters(expected[1])[name], atol=1e-6, err_msg=name)
    other = jax.jit(whole.loss_and_gradient)(*arguments)[0].total
    assert terms.total != pytest.approx(float(other), rel=1e-3)
    with pytest.raises(ValueError, match="micro_batch=3 does not divide the batch of 8 rows"):
        jax.eval_shape(dataclasses.replace(LEARNER, micro_batch=3).loss_and_gradient, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("moments", ["bfloat16", "factored"])
def test_smaller_moments_learn_as_well(moments: Any) -> None:
    wide = tiny_model(dataclasses.replace(SMALL, embed_dim=128, mlp_dim=160), EXECUTION)
    small = dataclasses.replace(
        LEARNER, optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=2, moments=moments)
    )
    state, history = jax.jit(small.init)(wide), []
    step = jax.jit(small.update)
    for _ in range(20):
        state, metrics = step(state, None, batch())
        history.append(float(metrics["ce"]))
    assert np.mean(history[-3:]) < 0.7 * history[0]

    def held(tree: Any) -> float:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

    # First and second moment of a float32 parameter: 2 + 4 bytes; 2 and a kernel's two vectors,
    # though what is narrower than 128 keeps its second moment whole.
    share = held(state.optimizer) / held(state.model)
    assert share < {"bfloat16": 1.51, "factored": 0.8}[moments]
    # Means over rows and columns have their kernel's name but not its axes.
    for leaf in jax.tree.leaves(placed_state(make_mesh(MeshConfig()), state)):
        assert len(leaf.sharding.spec) <= leaf.ndim


def test_factored_moments_are_of_adamw() -> None:
    with pytest.raises(ValueError, match="moments=factored is of AdamW; muon has no second"):
        OptimizerConfig(algorithm="muon", moments="factored")
