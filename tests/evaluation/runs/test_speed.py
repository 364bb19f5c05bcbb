from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.evaluation.runs import speed


def trajectory(nfe: list[int], length: list[int], positions: int = 8) -> Trajectory:
    rows = len(nfe)
    return Trajectory(
        tokens=np.zeros((rows, positions), np.int32),
        committed_at=np.zeros((rows, positions), np.int32),
        confidence=np.ones((rows, positions), np.float32),
        reason=np.ones((rows, positions), np.int32),
        nfe=np.array(nfe, np.int32),
        length=np.array(length, np.int32),
    )


def test_every_number_on_a_case_worked_by_hand() -> None:
    # Two problems: 6 tokens in 2 passes, 2 tokens in 4 passes, 8 positions each.
    found = speed.measure(trajectory([2, 4], [6, 2]), seconds=0.5, baseline_seconds=4.0)
    assert dataclasses.asdict(found) == {
        "problems": 2,
        "nfe": 3.0,
        "tokens": 4.0,
        "tpf": (6 / 2 + 2 / 4) / 2,  # and not (6 + 2) / (2 + 4)
        "canvas_tpf": (8 / 2 + 8 / 4) / 2,
        "seconds": 0.5,
        "tps": 16.0,
        "tps_interval": None,
        "speedup": 8.0,
        "speedup_interval": None,
    }


def test_repeated_timings_give_the_median_and_their_spread() -> None:
    """Ratios are taken within a turn: the slow second turn slows both runs down alike."""
    found = speed.measure(
        trajectory([2, 4], [6, 2]), seconds=[1.0, 4.0, 2.0], baseline_seconds=[10.0, 44.0, 24.0]
    )
    row = found.as_row()
    assert (row["tps"], row["tps_interval"]) == (4.0, [2.0, 8.0])
    assert (row["speedup"], row["speedup_interval"]) == (11.0, [10.0, 12.0])
    with pytest.raises(ValueError, match="got 1 and 2 measurements, expected one of each a turn"):
        speed.measure(trajectory([2], [1]), seconds=[1.0, 2.0], baseline_seconds=3.0)


def test_the_tail_after_the_end_is_never_counted() -> None:
    short = speed.measure(trajectory([4], [3], positions=8), seconds=1.0)
    long_tail = speed.measure(trajectory([4], [3], positions=512), seconds=1.0)
    assert (short.tpf, short.tps) == (long_tail.tpf, long_tail.tps) == (0.75, 3.0)
    assert long_tail.canvas_tpf == 64 * short.canvas_tpf


def test_one_token_a_pass_without_an_end_is_one() -> None:
    found = speed.measure(trajectory([8, 8], [8, 8]), seconds=2.0, baseline_seconds=2.0)
    assert (found.tpf, found.canvas_tpf, found.speedup, found.tps) == (1.0, 1.0, 1.0, 8.0)


def test_tpf_does_not_depend_on_the_batches() -> None:
    rng = np.random.default_rng(0)
    run = trajectory(rng.integers(1, 9, 12).tolist(), rng.integers(0, 9, 12).tolist())
    parts = [run.rows(slice(0, 4)), run.rows(slice(4, 12))]
    tpf = [speed.measure(part, seconds=1.0).tpf for part in parts]
    assert speed.measure(run, seconds=2.0).tpf == pytest.approx((4 * tpf[0] + 8 * tpf[1]) / 12)


def test_an_empty_answer_has_no_tokens_a_pass() -> None:
    assert speed.tokens_per_pass(trajectory([3, 2], [0, 4])).tolist() == [0.0, 2.0]
    assert speed.canvas_per_pass(trajectory([2, 4], [0, 4])).tolist() == [4.0, 2.0]


def test_the_row_of_the_summary_leaves_out_what_was_not_measured() -> None:
    with_baseline = speed.measure(trajectory([2], [4]), seconds=1.0, baseline_seconds=3.0)
    without = speed.measure(trajectory([2], [4]), seconds=1.0)
    assert with_baseline.as_row() == {
        "nfe": 2.0,
        "tpf": 2.0,
        "canvas_tpf": 4.0,
        "tps": 4.0,
        "speedup": 3.0,
        "problems": 1,
    }
    assert without.as_row() == {k: v for k, v in with_baseline.as_row().items() if k != "speedup"}


@pytest.mark.parametrize(
    ("nfe", "options", "message"),
    [
        ([], {"seconds": 1.0}, "no problem"),
        ([2, 0], {"seconds": 1.0}, "problem 1 has nfe 0"),
        ([2], {"seconds": 0.0}, r"seconds is 0\.0"),
        ([2], {"seconds": 1.0, "baseline_seconds": float("nan")}, "baseline_seconds is nan"),
        ([2], {"seconds": [1.0, -1.0]}, r"seconds is -1\.0"),
        ([2], {"seconds": []}, "got no measurement"),
    ],
)
def test_says_what_cannot_be_measured(
    nfe: list[int], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        speed.measure(trajectory(nfe, [0] * len(nfe)), **options)
