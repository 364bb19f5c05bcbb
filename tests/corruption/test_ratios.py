from __future__ import annotations

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from cd4lm_jax.corruption import ratios


def table(golden: pathlib.Path, name: str) -> np.ndarray:
    recorded = json.loads((golden / "tables.json").read_text())
    return np.array(recorded[name]["rows"], np.float64)


def test_nested_counts_are_the_published_ones(golden: pathlib.Path) -> None:
    rows = table(golden, "nested_mask_counts")
    length, *expected = rows[:, [0, 3, 4]].astype(int).T
    student_ratio, teacher_ratio = rows[:, [1, 2]].astype(np.float32).T
    counts = jax.jit(ratios.nested_counts)(length, student_ratio, teacher_ratio)
    np.testing.assert_array_equal(counts, expected)


def test_cosine_ratio_is_the_published_one(golden: pathlib.Path) -> None:
    rows = table(golden, "independent_cosine_ratio")
    (horizon,) = set(rows[:, 1])
    share = ratios.cosine_ratio(jnp.asarray(rows[:, 0], jnp.float32), int(horizon))
    np.testing.assert_allclose(share, rows[:, 2], atol=1e-6)


def test_nested_counts_stay_within_each_other() -> None:
    length, student, teacher = np.meshgrid(
        np.arange(80), np.linspace(0.4, 0.9, 21), np.linspace(0.1, 0.6, 21), indexing="ij"
    )
    teacher = np.minimum(teacher, 0.7 * student)  # shares above that are never drawn
    n_student, n_teacher = jax.jit(ratios.nested_counts)(
        length, student.astype(np.float32), teacher.astype(np.float32)
    )
    assert (n_teacher <= n_student).all()
    assert (n_student <= length).all()
    assert (np.asarray(n_teacher)[length >= 1] >= 1).all()
    assert (np.asarray(n_student)[length >= 2] >= 2).all()


def test_uniform_ratio_spans_the_floor_to_one() -> None:
    shares = np.asarray(ratios.uniform_ratio(jnp.array([0.0, 0.5, 1.0]), floor=0.2))
    np.testing.assert_allclose(shares, [0.2, 0.6, 1.0], rtol=1e-6)
