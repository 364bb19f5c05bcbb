from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from cd4lm_jax.decoding.trajectory import Edits, Trajectory

FIELDS = [field.name for field in dataclasses.fields(Trajectory) if field.name != "edits"]


def arrays(rows: int = 3, positions: int = 8, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "tokens": rng.integers(0, 500, (rows, positions)),
        "committed_at": rng.integers(0, 6, (rows, positions)),
        "confidence": rng.random((rows, positions), dtype=np.float32),
        "reason": rng.integers(0, 5, (rows, positions)),
        "nfe": np.full(rows, 5),
        "length": rng.integers(0, positions + 1, rows),
    }


def same(first: Trajectory, second: Trajectory) -> bool:
    return all(np.array_equal(getattr(first, n), getattr(second, n)) for n in FIELDS)


def test_holds_int32_and_float32_whatever_came_in() -> None:
    trajectory = Trajectory(**{name: value.tolist() for name, value in arrays().items()})
    kinds = {name: getattr(trajectory, name).dtype for name in FIELDS}
    assert kinds.pop("confidence") == np.float32
    assert set(kinds.values()) == {np.dtype(np.int32)}
    assert (len(trajectory), trajectory.gen_length) == (3, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"committed_at": np.zeros((3, 7), int)}, r"committed_at has shape \(3, 7\).*\(3, 8\)"),
        ({"nfe": np.full(4, 5)}, r"nfe has shape \(4,\), expected \(3,\)"),
        ({"length": np.zeros((3, 1), int)}, "length has shape .* expected 1 axes"),
        ({"tokens": np.zeros(8, int)}, "tokens has shape .* expected 2 axes"),
        ({"tokens": np.zeros((3, 8))}, "tokens holds float64, expected whole numbers"),
        ({"length": np.array([0, 9, 0])}, r"length is 9 at \[1\]"),
        ({"nfe": np.array([5, -1, 5])}, "nfe is -1"),
        ({"committed_at": np.full((3, 8), 6)}, r"committed_at is 6 at \[0, 0\].*nfe"),
        ({"committed_at": np.full((3, 8), -1)}, "committed_at is -1"),
        (
            {"reason": np.full((3, 8), 6)},
            r"reason is 6 at \[0, 0\], outside the range of the reasons",
        ),
        ({"confidence": np.full((3, 8), np.nan)}, "confidence is nan"),
        ({"confidence": np.full((3, 8), 1.5)}, "confidence is 1.5"),
    ],
)
def test_says_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trajectory(**(arrays() | change))


def test_a_confidence_may_exceed_one_by_rounding() -> None:
    Trajectory(**(arrays() | {"confidence": np.full((3, 8), 1.0039)}))


def test_rows_picks_by_slice_list_and_mask() -> None:
    trajectory = Trajectory(**arrays())
    by_slice = trajectory.rows(slice(1, 3))
    assert np.array_equal(by_slice.tokens, trajectory.tokens[1:3])
    assert same(by_slice, trajectory.rows([1, 2]))
    assert same(by_slice, trajectory.rows(np.array([False, True, True])))
    assert len(trajectory.rows([])) == 0
    with pytest.raises(ValueError, match="expected a slice or a list of rows"):
        trajectory.rows(np.array(1))


def test_concatenate_undoes_splitting() -> None:
    trajectory = Trajectory(**arrays(rows=5))
    parts = [trajectory.rows(slice(0, 2)), trajectory.rows(slice(2, 5))]
    assert same(Trajectory.concatenate(parts), trajectory)


def test_concatenate_refuses_mixed_lengths_and_nothing() -> None:
    mixed = [Trajectory(**arrays(positions=8)), Trajectory(**arrays(positions=4))]
    with pytest.raises(ValueError, match=r"one generation length, got \[4, 8\]"):
        Trajectory.concatenate(mixed)
    with pytest.raises(ValueError, match="got none"):
        Trajectory.concatenate([])


def test_json_round_trip_is_exact() -> None:
    trajectory = Trajectory(**arrays(rows=20, seed=3))
    records = json.loads(json.dumps(trajectory.to_json()))
    assert set(records[0]) == set(FIELDS)
    assert same(Trajectory.from_json(records), trajectory)


def test_json_names_a_float32_by_its_shortest_decimal() -> None:
    given = arrays() | {"confidence": np.full((3, 8), 0.95, dtype=np.float32)}
    assert Trajectory(**given).to_json()[0]["confidence"][0] == 0.95


def test_from_json_passes_over_other_keys_and_names_missing_ones() -> None:
    trajectory = Trajectory(**arrays())
    records = [record | {"prompt": "How many?"} for record in trajectory.to_json()]
    assert same(Trajectory.from_json(records), trajectory)
    del records[1]["nfe"]
    with pytest.raises(ValueError, match="record 1 lacks nfe"):
        Trajectory.from_json(records)
    with pytest.raises(ValueError, match="at least one record"):
        Trajectory.from_json([])


def test_from_json_refuses_ragged_records() -> None:
    records = Trajectory(**arrays()).to_json()
    records[2]["tokens"] = records[2]["tokens"][:-1]
    with pytest.raises(ValueError, match=r"one length, got \[7, 8\]"):
        Trajectory.from_json(records)


def test_edits_go_along() -> None:
    edits = Edits(
        first_tokens=np.arange(24, dtype=np.int32).reshape(3, 8),
        edited_at=np.eye(3, 8, dtype=np.int32),
        count=np.ones(3, np.int32),
    )
    trajectory = Trajectory(**arrays(), edits=edits)
    records = json.loads(json.dumps(trajectory.to_json()))
    again = Trajectory.from_json(records)
    joined = Trajectory.concatenate([again.rows([2, 0]), again.rows(slice(1, 2))]).rows([1, 2, 0])
    for found in (again, joined):
        assert found.edits is not None
        for name, values in vars(edits).items():
            np.testing.assert_array_equal(getattr(found.edits, name), values)
    with pytest.raises(ValueError, match="expected edits in all parts or in none"):
        Trajectory.concatenate([trajectory, Trajectory(**arrays())])
    with pytest.raises(ValueError, match=r"edited_at has shape \(3, 7\)"):
        Trajectory(**arrays(), edits=dataclasses.replace(edits, edited_at=np.zeros((3, 7), int)))
