"""Rows of tokens as the arrays of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import numpy as np

from cd4lm_jax.data.layouts import Layout, Row
from cd4lm_jax.data.packing import NONE
from cd4lm_jax.data.sources import Source

_KEPT_ROWS = 250_000


class HostBatch(TypedDict):
    """The rows of a batch that one host reads; arrays with a leading axis of rows.

    Attributes:
        tokens: int32 `[rows, length]`.
        valid: bool `[rows, length]`, not padding.
        answer: bool `[rows, length]`, may be masked; a part of `valid`.
        index: int32 `[rows]`, the example's place in its split.
        truncated: bool `[rows]`, the prompt was too long and lost its start.
        starts: int32 `[canvases, rows of each]`, where rows are packed: the position of each row's
            first token in its canvas. Rows that a canvas lacks are empty, and start at its end.
    """

    tokens: np.ndarray
    valid: np.ndarray
    answer: np.ndarray
    index: np.ndarray
    truncated: np.ndarray
    starts: NotRequired[np.ndarray]


class BatchMaker:
    """Turns places in a source into a batch.

    Reading and tokenising an example costs ten times as much as copying it, so what was made
    once is kept (about 0.6 kB an example), up to a limit.
    """

    def __init__(
        self,
        layout: Layout,
        source: Source,
        *,
        length: int,
        padding: int,
        made: Mapping[int, Row] | None = None,
    ) -> None:
        """Takes what rows are made of.

        Args:
            layout: makes rows.
            source: of the examples.
            length: tokens of a row, and of a canvas.
            padding: the token beyond a row's end.
            made: rows that are there already, by place.
        """
        self._layout, self._source = layout, source
        self._length, self._padding = length, padding
        self._kept = dict(made or {})

    def __call__(self, places: np.ndarray) -> HostBatch:
        """The batch of the examples at `places`.

        Args:
            places: int `[rows]`, one row each; or `[canvases, rows of each]`, packed, `NONE` where
                a canvas has no row.
        """
        flat = places.reshape(-1)
        shape = (flat.size, self._length)
        tokens = np.full(shape, self._padding, np.int32)
        valid = np.zeros(shape, np.bool_)
        answer = np.zeros(shape, np.bool_)
        truncated = np.zeros(flat.size, np.bool_)
        rows = self._rows([int(place) for place in flat if place != NONE])
        for row_number in np.flatnonzero(flat != NONE):
            row = rows[int(flat[row_number])]
            tokens[row_number, : len(row.tokens)] = row.tokens
            valid[row_number, : row.end] = True
            answer[row_number, row.prompt : row.end] = True
            truncated[row_number] = row.truncated
        batch = HostBatch(
            tokens=tokens,
            valid=valid,
            answer=answer,
            index=np.maximum(flat, 0).astype(np.int32),
            truncated=truncated,
        )
        if places.ndim == 2:
            lengths = valid.sum(axis=1).reshape(places.shape)
            starts = np.cumsum(lengths, axis=1) - lengths
            batch["starts"] = np.where(places == NONE, self._length, starts).astype(np.int32)
        return batch

    def _rows(self, places: Sequence[int]) -> dict[int, Row]:
        rows = {place: self._kept[place] for place in places if place in self._kept}
        missing = [place for place in dict.fromkeys(places) if place not in rows]
        if missing:
            made = map(self._layout.row, self._source.__getitems__(missing))
            fresh = dict(zip(missing, made, strict=True))
            rows |= fresh
            if len(self._kept) + len(fresh) <= _KEPT_ROWS:
                self._kept |= fresh
        return rows
