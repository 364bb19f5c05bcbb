"""What a decode committed where, when, why and with which confidence: data only.

One row a prompt. Everything that is counted or shown about a decode (passes, tokens a pass, the
pass-by-pass replay) is worked out from this record, so a decoder has nothing else to report.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from cd4lm_jax.decoding.reason import Reason

Int32 = npt.NDArray[np.int32]

# How much a probability may exceed one by rounding in a softmax of low precision.
_ROUNDING = 1e-2

Values = TypeVar("Values")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Positions(Generic[Values]):
    """What a decode records of every generated position. This is the one place that names it.

    `Values` is the type of a field: a jax array, a numpy array, or a list.

    Attributes:
        tokens: int32, token ids.
        committed_at: int32, the forward pass (from 1, counted by row) that committed the position;
            0 where the position was not decoded: filled after the end, or given.
        confidence: float32, probability of the token in the pass that committed it, or that last
            edited it; 0 where the position was not decoded.
        reason: int32, a `Reason`.
    """

    tokens: Values
    committed_at: Values
    confidence: Values
    reason: Values

    def positions(self) -> dict[str, Values]:
        """The fields of every position, by name."""
        return {name: getattr(self, name) for name in POSITION_TYPES}


POSITION_TYPES: dict[str, type[np.generic]] = {
    field.name: np.float32 if field.name == "confidence" else np.int32
    for field in dataclasses.fields(Positions)
}
"""The number type of each field of `Positions`, by name."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Edits:
    """What token editing replaced in the decodes of N prompts with G generated positions each.

    Attributes:
        first_tokens: int32 [N, G], the token that was committed; `Positions.tokens` is the last.
        edited_at: int32 [N, G], the forward pass that last edited a position, 0 where none did.
        count: int32 [N], tokens replaced by others.
    """

    first_tokens: Int32
    edited_at: Int32
    count: Int32

    def __post_init__(self) -> None:
        """Takes anything numpy can read; raises ValueError for a wrong number of axes."""
        for field in dataclasses.fields(self):
            rank = 1 if field.name == "count" else 2
            object.__setattr__(
                self, field.name, _array(field.name, getattr(self, field.name), rank)
            )

    def rows(self, index: slice | npt.NDArray[Any]) -> Edits:
        """Those of some prompts."""
        return Edits(**{name: values[index] for name, values in vars(self).items()})


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory(Positions[npt.NDArray[Any]]):
    """The decodes of N prompts with G generated positions each; numpy, on the host.

    Attributes:
        tokens, committed_at, confidence, reason: [N, G], see `Positions`.
        nfe: int32 [N], forward passes while the row was unfinished.
        length: int32 [N], generated tokens before the first EOS or EOT; G where there is none.
        edits: what was edited; None where decoding edits nothing.
    """

    nfe: Int32
    length: Int32
    edits: Edits | None = None

    def __post_init__(self) -> None:
        """Takes anything numpy can read (device arrays included) and checks that it fits.

        Raises:
            ValueError: a wrong number of axes or kind of number, shapes that disagree, a pass or a
            length outside what the row allows.
        """
        for name in _ARRAYS:
            rank = 2 if name in POSITION_TYPES else 1
            object.__setattr__(self, name, _array(name, getattr(self, name), rank))
        rows, positions = self.tokens.shape
        found_shapes = {name: getattr(self, name).shape for name in _ARRAYS}
        if self.edits is not None:
            found_shapes |= {name: values.shape for name, values in vars(self.edits).items()}
        for name, found in found_shapes.items():
            expected = (rows,) if name in ("nfe", "length", "count") else (rows, positions)
            if found != expected:
                raise ValueError(
                    f"trajectory: {name} has shape {found}, expected {expected} to go with "
                    f"tokens of shape {self.tokens.shape}"
                )
        _within("length", self.length, 0, positions, "the generated positions")
        _within("nfe", self.nfe, 0, None, "the forward passes of a row")
        _within("committed_at", self.committed_at, 0, self.nfe[:, None], "the row's nfe")
        _within("reason", self.reason, 0, max(Reason), "the reasons")
        _within("confidence", self.confidence, 0.0, 1.0 + _ROUNDING, "a probability")

    def __repr__(self) -> str:
        return f"Trajectory({len(self)} prompts of {self.gen_length} positions)"

    def __len__(self) -> int:
        """The number of prompts, N."""
        return self.tokens.shape[0]

    @property
    def gen_length(self) -> int:
        """Generated positions of every row, G: text, end and tail."""
        return self.tokens.shape[1]

    @property
    def tokens_per_pass(self) -> npt.NDArray[np.float64]:
        """TPF of every prompt, float64 [N]: tokens before the first EOS or EOT / forward passes."""
        return self.length / self.nfe

    def rows(self, index: slice | Sequence[int] | npt.NDArray[Any]) -> Trajectory:
        """The prompts picked by a slice, a list of row numbers or a boolean array [N].

        Raises:
            ValueError: the index picks no whole rows (a single number, more than one axis).
        """
        picked = index if isinstance(index, slice) else np.asarray(index)
        if not isinstance(picked, slice):
            if picked.ndim != 1:
                raise ValueError(f"rows: expected a slice or a list of rows, got {index!r}")
            picked = picked if picked.dtype == np.bool_ else picked.astype(np.intp)
        return Trajectory(
            **{name: getattr(self, name)[picked] for name in _ARRAYS},
            edits=None if self.edits is None else self.edits.rows(picked),
        )

    @classmethod
    def concatenate(cls, parts: Iterable[Trajectory]) -> Trajectory:
        """One trajectory from those of several batches, in their order.

        Raises:
            ValueError: no part at all, parts of different generation lengths, or some of them
                with edits and some without.
        """
        parts = list(parts)
        lengths = sorted({part.gen_length for part in parts})
        if len(lengths) != 1:
            raise ValueError(
                f"concatenate: expected parts of one generation length, got {lengths or 'none'}"
            )
        edits = [part.edits for part in parts if part.edits is not None]
        if edits and len(edits) != len(parts):
            raise ValueError("concatenate: expected edits in all parts or in none")
        return cls(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS},
            edits=_stacked([vars(one) for one in edits], np.concatenate) if edits else None,
        )

    def to_json(self) -> list[dict[str, Any]]:
        """One JSON-ready mapping a prompt, its keys the field names; `from_json` reads it back."""
        # Through the shortest decimal that names the float32: 0.95, not 0.949999988079071.
        confidence = self.confidence.astype(str).astype(np.float64).tolist()
        return [
            {
                **{name: values[row].tolist() for name, values in self.positions().items()},
                "confidence": confidence[row],
                "nfe": int(self.nfe[row]),
                "length": int(self.length[row]),
            }
            | (
                {}
                if self.edits is None
                else {
                    "edits": {name: each[row].tolist() for name, each in vars(self.edits).items()}
                }
            )
            for row in range(len(self))
        ]

    @classmethod
    def from_json(cls, records: Iterable[Mapping[str, Any]]) -> Trajectory:
        """The trajectory whose `to_json` gave `records`; other keys in a record are passed over.

        Raises:
            ValueError: no record, a key missing, or records of different generation lengths.
        """
        records = list(records)
        names = _ARRAYS
        if not records:
            raise ValueError("trajectory: expected at least one record, got none")
        for number, record in enumerate(records):
            if missing := [name for name in names if name not in record]:
                raise ValueError(
                    f"trajectory: record {number} lacks {', '.join(missing)}; "
                    f"expected the keys {', '.join(names)}"
                )
        lengths = sorted({len(record[name]) for record in records for name in POSITION_TYPES})
        if len(lengths) != 1:
            raise ValueError(f"trajectory: expected records of one length, got {lengths}")
        edited = [record["edits"] for record in records if "edits" in record]
        if edited and len(edited) != len(records):
            raise ValueError("trajectory: expected edits in all records or in none")
        return cls(
            **{name: np.asarray([record[name] for record in records]) for name in names},
            edits=_stacked(edited, np.asarray) if edited else None,
        )


_ARRAYS = (*POSITION_TYPES, "nfe", "length")
"""The arrays of a `Trajectory`."""


def _stacked(rows: Sequence[Mapping[str, Any]], join: Callable[[list[Any]], Any]) -> Edits:
    """The edits of several rows, or of several batches of them."""
    return Edits(**{name: join([each[name] for each in rows]) for name in rows[0]})


def _array(name: str, value: Any, rank: int) -> npt.NDArray[Any]:
    """`value` as int32 (as float32 for the confidence) with `rank` axes; a view where it can be."""
    array = np.asarray(value)
    if array.ndim != rank:
        raise ValueError(f"trajectory: {name} has shape {array.shape}, expected {rank} axes")
    if POSITION_TYPES.get(name) == np.float32:
        return array.astype(np.float32, copy=False)
    if array.dtype.kind not in "iu":
        raise ValueError(f"trajectory: {name} holds {array.dtype}, expected whole numbers")
    return array.astype(np.int32, copy=False)


def _within(
    name: str, values: npt.NDArray[Any], low: float, high: float | Int32 | None, what: str
) -> None:
    """Raises ValueError unless low <= values (<= high); written so that NaN does not pass."""
    fits = values >= low
    if high is not None:
        fits &= values <= high
    if not fits.all():
        where = tuple(int(i) for i in np.argwhere(~fits)[0])
        raise ValueError(
            f"trajectory: {name} is {values[where]} at {list(where)}, outside the range of {what}"
        )
