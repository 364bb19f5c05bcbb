"""The tensors of published checkpoints: their places among our parameters, and chunks of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from cd4lm_jax.checkpoints.family import Family
from cd4lm_jax.checkpoints.model_folder import abstract_model
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.runtime.trees import named_leaves

# Elements that are moved at once, of models of any size: 128 MiB in bfloat16.
CHUNK_ELEMENTS = 1 << 26
_TILE = 16  # rows transposed at once, so that what is written stays in the CPU's cache

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a published checkpoint and its place among our parameters.

    Attributes:
        name: theirs.
        leaf: our parameter.
        layer: its place in our parameter, where that is stacked.
        shape: theirs; `[out, in]` where it is transposed.
        transposed: ours is `[in, out]`.
    """

    name: str
    leaf: str
    layer: int | None
    shape: tuple[int, ...]
    transposed: bool

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
        return (*(() if self.layer is None else (self.layer,)), *self._ours(index))

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of a chunk in our parameter."""
        chunk = (self.rows_at_once, *self.shape[1:])
        return (*(() if self.layer is None else (1,)), *self._ours(chunk))

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
    """All tensors of a checkpoint of this architecture, one parameter of ours after the other."""
    found = []
    for leaf, ours in named_leaves(abstract_model(config)).items():
        name, transposed = family.tensors[leaf]
        stacked = "{}" in name
        shape = ours.shape[1:] if stacked else ours.shape
        for layer in range(config.num_layers) if stacked else (None,):
            found.append(
                Tensor(
                    name=name.format(layer),
                    leaf=leaf,
                    layer=layer,
                    shape=shape[::-1] if transposed else shape,
                    transposed=transposed,
                )
            )
    return found
