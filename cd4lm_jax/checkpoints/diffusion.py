"""A diffusion model made of an autoregressive one (A2D): its parameters, attending otherwise.

Nothing is trained here. The model gets a mask token where it has none, and a config that says how
it attends and how its logits are aligned from now on; it needs training before it answers well.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from typing import Literal

import numpy as np

from cd4lm_jax.checkpoints.huggingface import Checkpoint
from cd4lm_jax.checkpoints.published_tensors import all_tensors
from cd4lm_jax.checkpoints.safetensors_files import Rows
from cd4lm_jax.models.config import NO_MASK, Alignment, ModelConfig

VOCABULARY_MULTIPLE = 128
"""Rows that are added to a vocabulary make it a multiple of this, so that any mesh splits it."""

_ROWS_AT_ONCE = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffusion:
    """How the new model attends and is read.

    Attributes:
        attention: `block`: by blocks from the start of the sequence, so that keys and values of
            finished blocks stay exact; or `full`.
        block_length: positions of a block; for `full` 0, or what it is going to be trained with.
        alignment: `shifted` keeps the head's habit to predict the next token, so less is to be
            learnt anew (Dream, Fast-dLLM v2); `same` as SDAR.
    """

    attention: Literal["block", "full"] = "block"
    block_length: int = 32
    alignment: Alignment = "shifted"

    def config(self, source: ModelConfig, mask_id: int) -> ModelConfig:
        """The new model's architecture, its vocabulary grown where the mask token is beyond it."""
        size = source.vocab_size
        if mask_id >= size:
            size = math.ceil((mask_id + 1) / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
        return dataclasses.replace(
            source,
            vocab_size=size,
            mask_id=mask_id,
            attention=self.attention,
            block_length=self.block_length,
            blocks="sequence" if self.attention == "block" else "generation",
            alignment=self.alignment,
        )

    def convert(self, source: Checkpoint, free_id: int) -> Checkpoint:
        """The checkpoint of the new model, which reads from that of the old one.

        Args:
            source: of any model.
            free_id: the first id that no token has, which a new mask token takes.
        """
        old = source.config
        mask_id = free_id if old.mask_id == NO_MASK else old.mask_id
        config = self.config(old, mask_id)
        tensors = all_tensors(source.family, config)
        stored = dict(source.stored)
        if old.mask_id == NO_MASK:
            for tensor in tensors:
                if tensor.leaf in ("embedding", "head"):
                    stored[tensor.name] = GrownTable(
                        table=stored[tensor.name], rows_in_all=config.vocab_size, new=mask_id
                    )
        return dataclasses.replace(source, config=config, tensors=tensors, stored=stored)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrownTable:
    """A table of tokens with a row for a new one, and further ones where it has to grow.

    New rows are the mean of the others: a vector of the size that the model expects, and near no
    token in particular.

    Attributes:
        table: what there is, `[old vocab, embed]`.
        rows_in_all: of the new table.
        new: the row of the new token; it may be one that the old table has in reserve.
    """

    table: Rows
    rows_in_all: int
    new: int

    @property
    def file(self) -> pathlib.Path:
        """Where the old table is."""
        return self.table.file

    @property
    def kind(self) -> str:
        """The type of the old table."""
        return self.table.kind

    @property
    def dtype(self) -> np.dtype:
        """Likewise."""
        return self.table.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """`[new vocab, embed]`."""
        return (self.rows_in_all, *self.table.shape[1:])

    @functools.cached_property
    def _mean(self) -> np.ndarray:
        count = min(self.new, self.table.shape[0])
        total = np.zeros(self.table.shape[1:], np.float64)
        for start in range(0, count, _ROWS_AT_ONCE):
            part = self.table.rows(start, min(start + _ROWS_AT_ONCE, count))
            total += part.astype(np.float64).sum(axis=0)
        return (total / count).astype(self.dtype)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """`[stop - start, embed]`."""
        old = self.table.shape[0]
        values = np.empty((stop - start, *self.shape[1:]), self.dtype)
        kept = max(min(stop, old) - start, 0)
        if kept:
            values[:kept] = self.table.rows(start, start + kept)
        values[kept:] = self._mean
        if start <= self.new < stop:
            values[self.new - start] = self._mean
        return values
