"""All batches here are of one shape, so that each setting compiles once."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.corruption import ratios
from cd4lm_jax.corruption.masking import DiffusionMasks, IndependentMasks, NestedMasks
from cd4lm_jax.corruption.views import Batch, Views, masked_tokens

ROWS, WIDTH = 64, 80
KEY = jax.random.key(0)
Masks = NestedMasks | IndependentMasks | DiffusionMasks
SCHEMES: dict[str, Any] = {
    "nested": NestedMasks(),
    "independent": IndependentMasks(),
    "diffusion": DiffusionMasks(),
}
UNIFORM = DiffusionMasks()
MIXED = DiffusionMasks(blockwise=0.3)


def _views(masks: Masks, key: jax.Array, index: jax.Array, answer: jax.Array) -> Views:
    return masks.views(key, Batch(jnp.zeros(answer.shape, jnp.int32), answer, answer, index))


class Drawn(NamedTuple):
    """Masks and weights; without a view for a teacher nothing is masked for it."""

    student: np.ndarray
    teacher: np.ndarray
    weight: np.ndarray


_compiled = jax.jit(_views, static_argnums=0)


def draw(settings: Masks, index: np.ndarray, answer: np.ndarray, key: jax.Array = KEY) -> Drawn:
    views = jax.device_get(_compiled(settings, key, index.astype(np.int32), answer))
    teacher = views.teacher if settings.teaches else np.zeros_like(views.student)
    return Drawn(views.student, teacher, views.weight)


def answers(lengths: np.ndarray, starts: np.ndarray, width: int = WIDTH) -> np.ndarray:
    """Answer regions `[len(lengths), width]`, one run of positions a row."""
    place = np.arange(width) - starts[:, None]
    return (place >= 0) & (place < lengths[:, None])


LENGTHS = np.arange(ROWS)
RAGGED = answers(LENGTHS, (LENGTHS * 7) % 16)
LONG = answers(np.full(ROWS, 24), np.full(ROWS, 10))


def many(settings: Masks) -> tuple[np.ndarray, np.ndarray]:
    """Student and teacher masks `[4096, 24]` of as many answers of 24 tokens."""
    batches = [draw(settings, ROWS * i + np.arange(ROWS), LONG) for i in range(64)]
    student = np.concatenate([batch.student[LONG].reshape(ROWS, 24) for batch in batches])
    teacher = np.concatenate([batch.teacher[LONG].reshape(ROWS, 24) for batch in batches])
    return student, teacher


@pytest.mark.parametrize("masks", SCHEMES.values(), ids=SCHEMES)
def test_touches_neither_prompt_nor_padding(masks: Masks) -> None:
    views = draw(masks, LENGTHS, RAGGED)
    assert not (views.student & ~RAGGED).any()
    assert not (views.teacher & ~RAGGED).any()
    assert views.weight[~RAGGED].max() == 0
    assert np.isfinite(views.weight).all()


def same_masks(settings: Masks, rows: np.ndarray, moved: np.ndarray) -> None:
    """Checks that the answers of RAGGED get the same masks in another batch."""
    views, others = draw(settings, LENGTHS, RAGGED), draw(settings, LENGTHS[rows], moved)
    for mine, theirs in ((views.student, others.student), (views.teacher, others.teacher)):
        for place, row in enumerate(rows):
            np.testing.assert_array_equal(mine[row][RAGGED[row]], theirs[place][moved[place]])


@pytest.mark.parametrize("masks", SCHEMES.values(), ids=SCHEMES)
def test_masks_of_a_row_depend_on_neither_its_company_nor_its_place(masks: Masks) -> None:
    rows = np.random.default_rng(0).integers(0, ROWS, ROWS)
    starts = np.random.default_rng(1).integers(0, WIDTH - LENGTHS[rows])
    same_masks(masks, rows, answers(LENGTHS[rows], starts))


def test_masks_of_a_row_do_not_depend_on_the_padding_of_its_batch() -> None:
    rows = np.array([40, 3, 63, 17, 20])
    same_masks(NestedMasks(), rows, answers(LENGTHS[rows], np.array([30, 0, 7, 1, 50]), 99))


def test_each_step_draws_other_masks() -> None:
    keys = [jax.random.fold_in(KEY, step) for step in range(2)]
    first, second = (draw(NestedMasks(), LENGTHS, RAGGED, key).student for key in keys)
    assert (first != second).any(axis=1)[20:].all()


def test_the_teachers_masks_are_a_strict_subset_of_the_students() -> None:
    for batch in range(32):
        student, teacher, _ = draw(NestedMasks(), ROWS * batch + LENGTHS, RAGGED)
        assert not (teacher & ~student).any()
        hidden, known = student.sum(1), teacher.sum(1)
        assert (known < hidden)[2:].all()
        assert (known >= 1)[1:].all()
        np.testing.assert_array_equal(hidden[:11], np.minimum(LENGTHS, 2)[:11])
        share = hidden[20:] / LENGTHS[20:]
        assert share.min() >= 0.35
        assert share.max() <= 0.9


def test_the_number_of_nested_masks_is_the_published_one() -> None:
    ratio, share = 0.61, 0.5

    def published(length: int) -> tuple[int, int]:
        if length <= 10:
            student, teacher = min(2, length), min(1, length)
        else:
            capped = min(ratio, 0.5) if length < 20 else ratio
            student = max(int(length * capped), 2, math.ceil(0.1 * length))
            teacher = min(max(int(length * ratio * share), 1), student)
        return student, min(teacher, student - 1) if length >= 2 else teacher

    settings = NestedMasks(student_ratio=(ratio, ratio), teacher_share=(share, share))
    student, teacher, _ = draw(settings, LENGTHS, RAGGED)
    counts = np.stack([student.sum(1), teacher.sum(1)], axis=1)
    np.testing.assert_array_equal(counts, [published(int(length)) for length in LENGTHS])


@pytest.mark.parametrize("scheme", ["nested", "diffusion"])
def test_every_position_is_masked_equally_often(scheme: str) -> None:
    student, teacher = many(SCHEMES[scheme])
    for masks in (student, teacher) if scheme == "nested" else (student,):
        share = masks.mean()
        deviation = np.sqrt(len(masks) * share * (1 - share))
        z = (masks.sum(axis=0) - len(masks) * share) / deviation
        assert np.abs(z).max() < 4


@pytest.mark.parametrize("scheme", ["nested", "diffusion"])
@pytest.mark.parametrize("block_length", [1, 8])
def test_blockwise_masks_are_states_of_block_decoding(scheme: str, block_length: int) -> None:
    """Nothing before some block is hidden, all after it is, within it any pattern."""
    settings: Masks = dataclasses.replace(SCHEMES[scheme], blockwise=1.0, block_length=block_length)
    student, teacher = many(settings)
    patterns = set()
    for masks in (student, teacher) if scheme == "nested" else (student,):
        blocks = masks.reshape(len(masks), -1, block_length)
        some, every = np.any(blocks, axis=2), np.all(blocks, axis=2)
        assert (np.diff(some.astype(int), axis=1) >= 0).all()
        assert (every[:, 1:] | ~some[:, :-1]).all()
        mixed = blocks[some & ~every]
        patterns |= {part.tobytes() for part in mixed}
    assert len(patterns) == (254 if block_length == 8 else 0)  # all but none and every
    assert not (teacher & ~student).any()


def test_a_share_of_rows_is_blockwise() -> None:
    settings = NestedMasks(blockwise=0.25, block_length=1)
    student, _ = many(settings)
    suffix = (np.diff(student.astype(int), axis=1) >= 0).all(axis=1)
    assert suffix.mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("scheme", ["nested", "independent"])
def test_weights_are_a_mean(scheme: str) -> None:
    views = draw(SCHEMES[scheme], LENGTHS, RAGGED)
    counted = views.student if scheme == "nested" else RAGGED
    np.testing.assert_allclose(views.weight, counted / counted.sum(), rtol=1e-6)


@pytest.mark.parametrize("masks", SCHEMES.values(), ids=SCHEMES)
def test_a_batch_without_answers_has_no_weight(masks: Masks) -> None:
    views = draw(masks, LENGTHS, np.zeros_like(RAGGED))
    assert not views.student.any()
    assert (views.weight == 0).all()


def test_independent_times_give_the_cosine_ratio() -> None:
    student, teacher = many(IndependentMasks(sampling="bernoulli"))
    ratio = np.sin((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    earlier = np.cumsum(ratio)[:-1] / np.arange(1, 1001)  # mean over the times before each
    assert student.mean() == pytest.approx(ratio[1:].mean(), abs=0.02)
    assert teacher.mean() == pytest.approx(earlier.mean(), abs=0.02)
    assert (teacher & ~student).any()  # drawn apart


def test_the_number_of_independent_masks_is_the_published_one_or_drawn() -> None:
    exact, drawn = (IndependentMasks(sampling=name) for name in ("exact", "bernoulli"))
    assert IndependentMasks() == exact
    student = many(exact)[0].sum(axis=1)
    ratio = np.sin((np.arange(1, 1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    want = np.bincount((24 * ratio + 1e-5).astype(int), minlength=25) / 1000
    np.testing.assert_allclose(np.bincount(student, minlength=25) / len(student), want, atol=0.02)
    views = draw(exact, LENGTHS, RAGGED)
    other = draw(drawn, LENGTHS, RAGGED)
    difference = views.student.sum(axis=1) - other.student.sum(axis=1)
    assert (difference != 0).any()
    # The positions of the lowest numbers are masked in both.
    fewer = np.minimum(views.student.sum(axis=1), other.student.sum(axis=1))
    both = (views.student & other.student).sum(axis=1)
    np.testing.assert_array_equal(both, fewer)


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8437, 1.0])
def test_whole_shares_are_those_of_the_published_code(ratio: float) -> None:
    lengths = np.arange(1, 300)
    found = ratios.whole_share(jnp.asarray(lengths), jnp.full(299, ratio, jnp.float32))
    np.testing.assert_array_equal(found, [int(length * ratio) for length in lengths])


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (NestedMasks, {"student_ratio": (0.9, 0.4)}, r"student_ratio=\(0\.9, 0\.4\); give two"),
        (NestedMasks, {"teacher_share": (0.3, 1.7)}, r"teacher_share=.*, the lower first"),
        (NestedMasks, {"teacher_ratio": (-0.1, 0.6)}, r"teacher_ratio=.*shares of 0 to 1"),
        (NestedMasks, {"block_length": 0}, r"block_length=0; give 1 token or more"),
        (NestedMasks, {"blockwise": 1.5}, r"blockwise=1\.5; give a share of rows"),
        (DiffusionMasks, {"block_length": 0}, r"block_length=0; give 1 token or more"),
        (DiffusionMasks, {"blockwise": -0.1}, r"blockwise=-0\.1; give a share of rows"),
        (IndependentMasks, {"horizon": 0}, r"horizon=0; give 1 time or more"),
    ],
)
def test_says_what_is_out_of_range(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"corruption\.{message}"):
        kind(**settings)


def test_diffusion_hides_at_least_one_token_and_a_share_of_suffixes() -> None:
    uniform, mixed = many(UNIFORM)[0], many(MIXED)[0]
    assert uniform.any(axis=1).all()
    # Which of the two a row is changes nothing else about it.
    suffix = mixed[(mixed != uniform).any(axis=1)]
    assert (np.diff(suffix.astype(int), axis=1) >= 0).all()
    assert set(suffix.sum(axis=1)) == set(range(1, 25))
    assert len(suffix) / len(mixed) == pytest.approx(0.3, abs=0.04)


def test_elbo_weighs_by_masked_share_and_length() -> None:
    rows = (LENGTHS > 0).sum()
    uniform, mixed = draw(UNIFORM, LENGTHS, RAGGED), draw(MIXED, LENGTHS, RAGGED)
    # A suffix hides exactly its share, so such rows weigh the same.
    suffix = (uniform.student != mixed.student).any(axis=1)
    assert suffix.any()
    np.testing.assert_allclose(mixed.weight[suffix].sum(axis=1), 1 / rows, rtol=1e-5)
    heaviest = uniform.weight.max(axis=1)
    same = np.where(uniform.student, heaviest[:, None], 0)
    np.testing.assert_array_equal(uniform.weight, same)
    # The weight tells the ratio that was drawn; what it hid must be of that order.
    ratio = 1 / (heaviest * LENGTHS * rows)[1:]
    assert ratio.min() >= 1e-3 * (1 - 1e-5)
    assert ratio.max() <= 1 + 1e-5
    hidden, expected = uniform.student.sum(axis=1)[1:], ratio * LENGTHS[1:]
    spread = np.sqrt(expected * (1 - ratio).clip(0))
    assert (np.abs(hidden - expected) <= 4 * spread + 1).all()


def test_mean_weighs_all_masked_tokens_alike() -> None:
    views = draw(DiffusionMasks(weighting="mean"), LENGTHS, RAGGED)
    np.testing.assert_allclose(views.weight, views.student / views.student.sum(), rtol=1e-6)


def test_puts_the_mask_token_at_masked_positions_alone() -> None:
    tokens = jnp.array([[5, 6, 7], [8, 9, 1]])
    masked = jnp.array([[False, True, False], [True, False, False]])
    np.testing.assert_array_equal(masked_tokens(tokens, masked, 0), [[5, 0, 7], [0, 9, 1]])
