"""The tensors of published checkpoints: their places among our parameters, and chunks of them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from cd4lm_jax.checkpoints.family import Family
from cd4lm_jax.checkpoints.model_folder import abstract_model
from cd4lm_jax.checkpoints.safetensors_files import Rows
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.runtime.trees import named_leaves

# Elements that are moved at once, of models of any size: 128 MiB in bfloat16.
CHUNK_ELEMENTS = 1 << 26
_TILE = 16  # rows transposed at once, so that what is written stays in the CPU's cache

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a published checkpoint, or some rows of it, and its place in our parameters.

    Attributes:
        name: theirs.
        leaf: our parameter.
        index: its place in our parameter, where that is stacked: the layer, the expert.
        shape: theirs; `[out, in]` where it is transposed.
        transposed: ours is `[in, out]`.
        first_row: of the rows, in a tensor that several parameters of ours share.
        rows_in_all: of that tensor.
    """

    name: str
    leaf: str
    index: tuple[int, ...]
    shape: tuple[int, ...]
    transposed: bool
    first_row: int = 0
    rows_in_all: int = 0

    @property
    def whole_shape(self) -> tuple[int, ...]:
        """Of the published tensor, shared or not."""
        return (self.rows_in_all or self.shape[0], *self.shape[1:])

    def read(self, stored: Rows, start: int, stop: int) -> np.ndarray:
        """Rows of theirs, counted from the first that is ours."""
        return stored.rows(self.first_row + start, self.first_row + stop)

    @property
    def rows_at_once(self) -> int:
        """Rows of a chunk; the chunks of a tensor are about equal."""
        return math.ceil(self.shape[0] / math.ceil(math.prod(self.shape) / CHUNK_ELEMENTS))

    def chunks(self) -> Iterator[slice]:
        """The tensor's rows in order, a chunk at a time."""
        for start in range(0, self.shape[0], self.rows_at_once):
            yield slice(start, min(start + self.rows_at_once, self.shape[0]))

    def place(self, rows: slice) -> tuple[int | slice, ...]:
        """The index in our parameter of these rows."""
        index = (rows, *(slice(0, size) for size in self.shape[1:]))
        return (*self.index, *self._ours(index))

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of a chunk in our parameter."""
        chunk = (self.rows_at_once, *self.shape[1:])
        return (*(1 for _ in self.index), *self._ours(chunk))

    def turned(self, chunk: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Rows of ours as rows of theirs, or the other way about, in `dtype`."""
        if not self.transposed:
            return chunk.astype(dtype, copy=False)
        turned = np.empty(chunk.shape[::-1], dtype)
        transpose(chunk, turned)
        return turned

    def _ours(self, axes: tuple[T, ...]) -> tuple[T, ...]:
        return axes[::-1] if self.transposed else axes


def transpose(source: np.ndarray, target: np.ndarray) -> None:
    """Writes `[rows, columns]` into `[columns, rows]`, cast to its type."""
    for start in range(0, len(source), _TILE):
        target[:, start : start + _TILE] = source[start : start + _TILE].T


def all_tensors(family: Family, config: ModelConfig) -> list[Tensor]:
    """All tensors of a checkpoint of this architecture, one parameter of ours after the other.

    The parts of a tensor that several parameters share follow each other, in its order.
    """
    found: dict[str, list[Tensor]] = {}
    leaves = named_leaves(abstract_model(config))
    for leaf in sorted(leaves, key=functools.partial(_order, family)):
        name, transposed = family.tensors[_table_name(leaf)]
        stacked = name.count("{}")
        first = config.dense_layers if leaf.startswith("blocks.") else 0
        shape = leaves[leaf].shape[stacked:]
        for index in itertools.product(*map(range, leaves[leaf].shape[:stacked])):
            numbers = (first + index[0], *index[1:]) if index else ()
            tensor = Tensor(
                name=name.format(*numbers),
                leaf=leaf,
                index=index,
                shape=shape[::-1] if transposed else shape,
                transposed=transposed,
            )
            found.setdefault(tensor.name, []).append(tensor)
    return [part for parts in found.values() for part in _placed(parts)]


def _table_name(leaf: str) -> str:
    """What a family's table calls a parameter."""
    return leaf.removeprefix("dense_")


def _order(family: Family, leaf: str) -> tuple[int, bool]:
    """The place of a parameter in the family's table, dense layers first."""
    return list(family.tensors).index(_table_name(leaf)), leaf.startswith("blocks.")


def _placed(parts: list[Tensor]) -> list[Tensor]:
    """The parts of one tensor, each with its rows in it."""
    if len(parts) == 1:
        return parts
    ends = list(itertools.accumulate(part.shape[0] for part in parts))
    return [
        dataclasses.replace(part, first_row=end - part.shape[0], rows_in_all=ends[-1])
        for part, end in zip(parts, ends, strict=True)
    ]
