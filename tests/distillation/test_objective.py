from __future__ import annotations

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.checkpoints import huggingface
from cd4lm_jax.distillation import loss as losses
from cd4lm_jax.distillation import projection
from cd4lm_jax.distillation.divergence import (
    Divergence,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    TotalVariation,
)
from cd4lm_jax.distillation.loss import Terms
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.projection import HiddenStates
from cd4lm_jax.distillation.proposals import proposals
from cd4lm_jax.models.transformer import Transformer
from tests.tiny import parameters

TOKENS, WIDTH, VOCAB = 50, 8, 11


class Problem(NamedTuple):
    student: HiddenStates
    teacher: HiddenStates
    targets: jax.Array
    weight: jax.Array


def problem(scale: float = 1.0) -> Problem:
    """Random states; every third position has no weight, the others have different ones."""
    rng = np.random.default_rng(0)
    student, teacher = (
        HiddenStates(
            jnp.asarray(rng.standard_normal((TOKENS, WIDTH), np.float32)),
            jnp.asarray(scale * rng.standard_normal((WIDTH, VOCAB), np.float32)),
        )
        for _ in range(2)
    )
    weight = np.where(np.arange(TOKENS) % 3 > 0, rng.random(TOKENS), 0).astype(np.float32)
    targets = rng.integers(0, VOCAB, TOKENS)
    return Problem(student, teacher, jnp.asarray(targets), jnp.asarray(weight / weight.sum()))


def dense(
    settings: Objective,
    student: HiddenStates,
    teacher: HiddenStates | None,
    rest: Problem,
    lam: float,
) -> Terms:
    """The same loss from all logits at once."""
    t = settings.temperature
    logits = student.hidden @ student.kernel
    ce = -jnp.take_along_axis(jax.nn.log_softmax(logits), rest.targets[:, None], axis=1)[:, 0]
    ce = jnp.sum(rest.weight * ce)
    if teacher is None:
        return Terms(ce, jnp.float32(0), ce)
    log_t = jax.nn.log_softmax(teacher.hidden @ teacher.kernel / t)
    log_q = jax.nn.log_softmax(logits / t)
    kl = t**2 * jnp.sum(rest.weight * jnp.sum(jnp.exp(log_t) * (log_t - log_q), axis=1))
    return Terms(lam * kl + (1 - lam) * ce, kl, ce)


def dense_of(settings: Objective, p: Problem, student: HiddenStates, lam: float) -> jax.Array:
    """The total of any divergence and confidence, from all logits at once."""
    logits, temperature = student.hidden @ student.kernel, settings.temperature
    truth = jnp.take_along_axis(jax.nn.log_softmax(logits), p.targets[:, None], axis=1)[:, 0]
    t = jax.nn.softmax(p.teacher.hidden @ p.teacher.kernel / temperature)
    q = jax.nn.softmax(logits / temperature)
    mixed = (t + q) / 2
    value = {
        ForwardKL(): jnp.sum(t * jnp.log(t / q), axis=1),
        ReverseKL(): jnp.sum(q * jnp.log(q / t), axis=1),
        JensenShannon(): jnp.sum(t * jnp.log(t / mixed) + q * jnp.log(q / mixed), axis=1) / 2,
        TotalVariation(): jnp.sum(jnp.abs(t - q), axis=1) / 2,
    }[settings.divergence]
    share = lam * t.max(axis=1) ** settings.confidence
    return jnp.sum(p.weight * (share * temperature**2 * value - (1 - share) * truth))


def graded(
    settings: Objective, p: Problem, lam: float, *, taught: bool = True, plainly: bool = False
) -> tuple[Terms, tuple[HiddenStates, HiddenStates]]:
    """Terms, and gradients with respect to student and teacher."""

    def loss(student: HiddenStates, teacher: HiddenStates) -> tuple[jax.Array, Terms]:
        if plainly:
            frozen = jax.lax.stop_gradient(teacher) if taught else None
            terms = dense(settings, student, frozen, p, lam)
        else:
            expert = teacher if taught else None
            terms = losses.loss(settings, student, expert, p.targets, p.weight, lam)
        return terms.total, terms

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, terms), gradients = run(p.student, p.teacher)
    return terms, gradients


def assert_close(one: Any, other: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, other)


@pytest.mark.parametrize("chunk", [7, 25, 1024])
def test_in_chunks_as_in_one(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "MAX_CHUNK", chunk)
    ours, plain = (
        graded(Objective(temperature=2.0), problem(), 0.7, plainly=plainly)
        for plainly in (False, True)
    )
    assert_close(ours, plain)
    _, (student, teacher) = ours
    assert np.abs(student.hidden).max() > 1e-3
    assert not np.any(teacher.hidden)  # frozen
    assert not np.any(teacher.kernel)


@pytest.mark.parametrize("confidence", [0.0, 1.5])
@pytest.mark.parametrize(
    "divergence", [ForwardKL(), ReverseKL(), JensenShannon(), TotalVariation()], ids=str
)
def test_every_divergence_in_chunks_as_in_one(
    divergence: Divergence, confidence: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "MAX_CHUNK", 7)
    p, lam = problem(), 0.7
    settings = Objective(divergence=divergence, temperature=1.5, confidence=confidence)

    @jax.jit
    @jax.value_and_grad
    def ours(student: HiddenStates) -> jax.Array:
        return losses.loss(settings, student, p.teacher, p.targets, p.weight, lam).total

    plain = jax.jit(jax.value_and_grad(lambda student: dense_of(settings, p, student, lam)))
    assert_close(ours(p.student), plain(p.student))


def test_proposals_are_the_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "MAX_CHUNK", 7)
    p, mask_id = problem(scale=2.0), 3
    wanted = p.weight > 0
    found = jax.jit(proposals, static_argnums=2)(p.student, wanted, mask_id)
    logits = np.array(p.student.hidden @ p.student.kernel)
    logits[:, mask_id] = -np.inf
    best = np.asarray(jax.nn.softmax(logits)).max(axis=1)
    np.testing.assert_allclose(found.confidence, np.where(wanted, best, 0), rtol=1e-5)
    np.testing.assert_array_equal(found.token, np.where(wanted, logits.argmax(axis=1), 0))


def test_where_the_teacher_sees_the_token_the_text_is_learnt() -> None:
    p, lam = problem(), 0.7
    predicted = jnp.asarray(np.random.default_rng(1).random(TOKENS) < 0.5)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def ours(student: HiddenStates) -> tuple[jax.Array, Terms]:
        settings = Objective(visible="text")
        terms = losses.loss(settings, student, p.teacher, p.targets, p.weight, lam, predicted)
        return terms.total, terms

    @jax.jit
    @jax.value_and_grad
    def plain(student: HiddenStates) -> jax.Array:
        blind = p._replace(weight=p.weight * predicted)
        seen = p._replace(weight=p.weight * ~predicted)
        both = dense(Objective(), student, p.teacher, blind, lam)
        return both.total + dense(Objective(), student, None, seen, lam).total

    (total, terms), gradient = ours(p.student)
    assert_close((total, gradient), plain(p.student))
    # The terms are reported over all positions, so that runs compare.
    everywhere = dense(Objective(), p.student, p.teacher, p, lam)
    assert_close((terms.kl, terms.ce), (everywhere.kl, everywhere.ce))


def test_entropy_regularisation_pushes_down_the_entropy_of_what_is_right() -> None:
    p, entropy_weight = problem(), 0.3

    @jax.jit
    @jax.value_and_grad
    def ours(student: HiddenStates) -> jax.Array:
        settings = Objective(entropy_weight=entropy_weight)
        return losses.loss(settings, student, p.teacher, p.targets, p.weight, 0.7).total

    @jax.jit
    @jax.value_and_grad
    def plain(student: HiddenStates) -> jax.Array:
        log_p = jax.nn.log_softmax(student.hidden @ student.kernel)
        entropy = -(jnp.exp(log_p) * log_p).sum(axis=1)
        right = jax.lax.stop_gradient(log_p).argmax(axis=1) == p.targets
        rest = dense(Objective(), student, p.teacher, p, 0.7).total
        return rest + entropy_weight * jnp.sum(p.weight * right * entropy)

    assert_close(ours(p.student), plain(p.student))
    without = dense(Objective(), p.student, p.teacher, p, 0.7).total
    assert ours(p.student)[0] > without


def test_without_a_teacher_it_is_cross_entropy() -> None:
    ours, plain = (
        graded(Objective(), problem(), 0.7, taught=False, plainly=plainly)
        for plainly in (False, True)
    )
    assert_close(ours, plain)
    assert ours[0].kl == 0
    assert ours[0].total == ours[0].ce


def test_no_weight_at_all_is_no_loss_and_no_gradient() -> None:
    p = problem()._replace(weight=jnp.zeros(TOKENS))
    terms, gradients = graded(Objective(), p, 0.5)
    assert all(np.all(array == 0) for array in jax.tree.leaves((terms, gradients)))


def test_a_nan_is_not_hidden() -> None:
    p = problem()
    lost = HiddenStates(p.student.hidden.at[1, 0].set(jnp.nan), p.student.kernel)
    assert p.weight[1] > 0
    terms = jax.jit(
        lambda student: losses.loss(Objective(), student, p.teacher, p.targets, p.weight, 0.5)
    )(lost)
    assert all(np.isnan(term) for term in terms)


def test_the_published_clamp_stops_the_gradient_of_each_term_above_five() -> None:
    p = problem(scale=8.0)
    raw = dense(Objective(temperature=1.0), p.student, p.teacher, p, 0.5)
    assert raw.kl > 5
    assert raw.ce > 5
    terms, (gradient, _) = graded(Objective(temperature=1.0, clamp=True), p, 0.5)
    assert [float(term) for term in terms] == [5, 5, 5]
    assert all(np.all(array == 0) for array in gradient)
    # A hot KL term is small again, and then it alone is learnt from.
    own = HiddenStates(p.student.hidden, 1.05 * p.student.kernel)
    near = p._replace(teacher=own)
    terms, (gradient, _) = graded(Objective(temperature=1.0, clamp=True), near, 0.5)
    _, (expected, _) = graded(Objective(temperature=1.0), near, 1.0)
    assert terms.kl < 5 == terms.ce
    np.testing.assert_allclose(gradient.hidden, 0.5 * expected.hidden, rtol=1e-5, atol=1e-9)


def test_says_that_a_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"objective.temperature=0 must be above 0"):
        Objective(temperature=0)


def test_says_what_does_not_fit() -> None:
    message = (
        r"clamp bounds the published terms, which Objective\(.*visible='text'.* changes; leave"
    )
    with pytest.raises(ValueError, match=message):
        Objective(visible="text", clamp=True)
    with pytest.raises(ValueError, match=r"TotalVariation\(\).* changes; leave"):
        Objective(divergence=TotalVariation(), clamp=True)
    assert Objective(temperature=1.0, clamp=True).clamp
    for name in ("entropy_weight", "confidence"):
        with pytest.raises(ValueError, match=rf"objective\.{name}=-1; give 0"):
            Objective(**{name: -1})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def recorded(golden: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(golden / "dscd_loss.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def pair(golden: pathlib.Path) -> tuple[Transformer, Transformer]:
    names = ("llada_tiny", "llada_tiny_teacher")
    student, teacher = (huggingface.read_model(golden / name) for name in names)
    return student, teacher


@jax.jit
def states(model: Transformer, tokens: jax.Array) -> HiddenStates:
    hidden = model.hidden(tokens, jnp.ones(tokens.shape, bool))
    kernel = model.head_kernel
    assert isinstance(kernel, jax.Array)
    return HiddenStates(hidden.reshape(-1, hidden.shape[-1]), kernel)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1, 2])
def test_computes_the_terms_and_gradients_of_the_published_code(
    temperature: int,
    pair: tuple[Transformer, Transformer],
    recorded: dict[str, np.ndarray],
) -> None:
    labels = recorded["labels"].reshape(-1)
    counted = labels >= 0
    targets = jnp.asarray(np.where(counted, labels, 0))
    weight = jnp.asarray(counted / counted.sum(), jnp.float32)
    student, teacher = pair
    noisy = recorded["student_input_ids"].astype(np.int32)
    expert = states(teacher, recorded["teacher_input_ids"].astype(np.int32))

    @jax.jit
    def raw(model: Transformer, expert: HiddenStates, lam: float) -> Any:
        def loss(model: Transformer) -> tuple[jax.Array, Terms]:
            settings = Objective(temperature=temperature)
            terms = losses.loss(settings, states(model, noisy), expert, targets, weight, lam)
            return terms.total, terms

        (_, terms), gradient = jax.value_and_grad(loss, has_aux=True)(model)
        return terms, gradient

    @jax.jit
    def clamped(student: HiddenStates, expert: HiddenStates, lam: float) -> Terms:
        settings = Objective(temperature=temperature, clamp=True)
        return losses.loss(settings, student, expert, targets, weight, lam)

    for lam in (0.9, 0.5):
        case = f"T{temperature}_lam{lam}"
        terms, gradient = raw(student, expert, lam)
        np.testing.assert_allclose(terms, recorded[f"{case}_raw"], rtol=1e-5)
        np.testing.assert_allclose(
            clamped(states(student, noisy), expert, lam), recorded[f"{case}_clamped"], rtol=1e-5
        )
        ours = parameters(gradient)
        for theirs, mine in (
            ("wte", ours["embedding"]),
            ("blocks.0.q_proj", ours["blocks.query"][0].T),
            ("blocks.1.ff_proj", ours["blocks.gate"][1].T),
            ("ff_out", ours["head"].T),
        ):
            expected = recorded[f"{case}_raw/grad/model.transformer.{theirs}.weight"]
            error = np.abs(mine - expected).max() / np.abs(expected).max()
            assert error < 1e-4, theirs
