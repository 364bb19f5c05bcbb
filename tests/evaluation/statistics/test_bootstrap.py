from __future__ import annotations

import math

import numpy as np
import pytest

from cd4lm_jax.evaluation.statistics import bootstrap


def test_resampled_means_are_those_of_a_plain_loop() -> None:
    values = np.random.default_rng(1).random((3, 7))
    rng = np.random.default_rng(5)
    expected = [values[:, rng.integers(0, 7, 7)].mean(axis=1) for _ in range(50)]
    # numpy draws small integers from a stream, so one big draw equals many small ones.
    found = bootstrap.resampled_means(values, samples=50, seed=5)
    assert found.shape == (50, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_number_of_draws_held_at_once_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random((2, 11))
    whole = bootstrap.resampled_means(values, samples=40, seed=3)
    monkeypatch.setattr(bootstrap, "_DRAWS", 11 * 7)
    np.testing.assert_array_equal(bootstrap.resampled_means(values, samples=40, seed=3), whole)


def test_the_interval_of_a_share_is_near_the_normal_one() -> None:
    values = np.arange(1000) < 900
    found = bootstrap.mean(values, seed=0)
    spread = 1.96 * math.sqrt(0.9 * 0.1 / 1000)
    assert found.value == 0.9
    assert found.interval == pytest.approx([0.9 - spread, 0.9 + spread], abs=0.002)


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    runs = [bootstrap.mean(rng.random(200) < 0.8, samples=400, seed=i) for i in range(300)]
    held = np.mean([run.low <= 0.8 <= run.high for run in runs])
    assert 0.9 < held < 0.99


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(2).random(100)
    assert bootstrap.mean(values, seed=7) == bootstrap.mean(values, seed=7)
    assert bootstrap.mean(values, seed=7) != bootstrap.mean(values, seed=8)


def test_a_wider_level_gives_a_wider_interval() -> None:
    values = np.random.default_rng(2).random(100)
    wide, narrow = (bootstrap.mean(values, level=level) for level in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_pairing_cancels_what_both_runs_share() -> None:
    rng = np.random.default_rng(0)
    hardness = rng.random(500)
    first, second = (hardness + 0.01 * rng.random(500) for _ in range(2))
    paired = bootstrap.paired_difference(first + 0.01, second)
    shuffled = bootstrap.paired_difference(first + 0.01, rng.permutation(second))
    assert paired.low > 0 > shuffled.low
    assert paired.value == pytest.approx(shuffled.value)


def test_equal_runs_do_not_differ() -> None:
    values = np.random.default_rng(0).random(50)
    difference = bootstrap.paired_difference(values, values)
    assert (difference.value, *difference.interval) == (0.0, 0.0, 0.0)


def test_a_constant_ratio_has_no_spread() -> None:
    values = np.random.default_rng(0).integers(1, 20, 60)
    ratio = bootstrap.paired_ratio(3 * values, values)
    assert (ratio.value, *ratio.interval) == pytest.approx((3.0, 3.0, 3.0))


def test_a_ratio_is_one_of_means() -> None:
    assert bootstrap.paired_ratio([1.0, 9.0], [1.0, 3.0]).value == 10 / 4


def test_a_denominator_that_may_vanish_gives_an_infinite_bound() -> None:
    ratio = bootstrap.paired_ratio([1.0, 1.0, 1.0], [0.0, 0.0, 1.0])
    assert ratio.value == 3.0
    assert ratio.high == math.inf


def test_bounds_are_samples_and_nan_is_left_out() -> None:
    assert bootstrap.percentile_interval([math.nan, *range(101)], 0.5) == (25.0, 75.0)
    assert bootstrap.percentile_interval([1.0, 2.0, math.inf], 0.5) == (1.0, math.inf)


def test_says_what_cannot_be_resampled() -> None:
    with pytest.raises(ValueError, match=r"shapes \(3,\), \(2,\)"):
        bootstrap.paired_difference([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="at least one problem"):
        bootstrap.mean([])
    with pytest.raises(ValueError, match="finite"):
        bootstrap.mean([1.0, math.nan])
    with pytest.raises(ValueError, match="zero on every problem"):
        bootstrap.paired_ratio([1, 2], [0, 0])
    with pytest.raises(ValueError, match="level is 95"):
        bootstrap.mean([1, 2], level=95)
    with pytest.raises(ValueError, match="samples is 0"):
        bootstrap.mean([1, 2], samples=0)
    with pytest.raises(ValueError, match="undefined"):
        bootstrap.percentile_interval([math.nan])
