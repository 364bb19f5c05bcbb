"""Batches of token rows: a grain pipeline from a source of questions and answers.

A row is what a layout makes of an example, padded on the right; see `layouts`. All batches have
one shape, so a step compiles once. Rows are checked when a source is opened: an answer that does
not fit is an error before the first update.

What is shuffled, repeated and split among hosts are indices; the examples behind a batch of
indices are then read and tokenised together. So every host sees the same order, and the rows of
a global batch do not depend on how many hosts share it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal, TypedDict, get_args

import grain
import numpy as np
from absl import flags

from cd4lm_jax.data import checks, workers
from cd4lm_jax.data.checks import DataError
from cd4lm_jax.data.layouts import Layout, LayoutName, Row, make_layout
from cd4lm_jax.data.sources import Source, open_source
from cd4lm_jax.data.tokenizer import Tokenizer

# Batches made ahead of the training loop, and the threads that make them.
_AHEAD = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
_KEPT_ROWS = 250_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on, and how rows are laid out.

    Attributes:
        source: see `open_source`.
        split: of the source, or a slice of one.
        data_dir: where TFDS datasets are.
        layout: how an example becomes a row; see `layouts`.
        answer_length: tokens of the chat layout's answer region: text, EOT, EOS tail.
        max_length: tokens of a row; prompts that do not fit lose their start.
        overlong: an answer that does not fit is an error, or skipped, or cut at its end.
        batch_size: rows of a batch over all hosts.
        seed: of the order.
        workers: processes that make batches; 0 for a thread of this one.
        max_malformed: faulty rows of a file that are skipped before one is an error.
    """

    source: str = "gsm_mini/full"
    split: str = "pretrain"
    data_dir: str | None = None
    layout: LayoutName = "chat"
    answer_length: int = 64
    max_length: int = 128
    overlong: Literal["error", "skip", "cut"] = "error"
    batch_size: int = 64
    seed: int = 0
    workers: int = 0
    max_malformed: int = 0

    def __post_init__(self) -> None:
        if self.answer_length < 2:
            raise DataError(f"answer_length is {self.answer_length}: expected at least 2")
        if self.max_length <= self.answer_length and self.layout == "chat":
            raise DataError(
                f"max_length is {self.max_length}: expected more than answer_length, "
                f"{self.answer_length}, to leave room for a prompt"
            )
        for name, known in (("layout", get_args(LayoutName)), ("overlong", checks.OVERLONG)):
            if getattr(self, name) not in known:
                raise DataError(
                    f"{name} is {getattr(self, name)!r}: expected one of {', '.join(known)}"
                )
        least = {"batch_size": 1, "workers": 0, "max_malformed": 0, "max_length": 2}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise DataError(f"{name} is {getattr(self, name)}: expected at least {lowest}")

    def open(self) -> Source:
        """The split's examples.

        Raises:
            SourceError: the source cannot be opened.
        """
        return open_source(self.source, self.split, self.data_dir, max_malformed=self.max_malformed)

    def layout_of(self, tokenizer: Tokenizer) -> Layout:
        """What makes rows of examples."""
        return make_layout(
            self.layout,
            tokenizer,
            answer_length=self.answer_length,
            max_length=self.max_length,
        )


class HostBatch(TypedDict):
    """The rows of a batch that one host reads; arrays with a leading axis of rows.

    Attributes:
        tokens: int32 `[rows, length]`.
        valid: bool `[rows, length]`, not padding.
        answer: bool `[rows, length]`, may be masked; a part of `valid`.
        index: int32 `[rows]`, the example's place in its split.
        truncated: bool `[rows]`, the prompt was too long and lost its start.
    """

    tokens: np.ndarray
    valid: np.ndarray
    answer: np.ndarray
    index: np.ndarray
    truncated: np.ndarray


class BatchMaker:
    """Turns indices of a source into a batch.

    Reading and tokenising an example costs ten times as much as copying it, so what was made
    once is kept (about 0.6 kB an example), up to a limit.
    """

    def __init__(self, config: DataConfig, tokenizer: Tokenizer, source: Source) -> None:
        self._length = config.max_length
        self._padding = tokenizer.eos_id
        self._layout = config.layout_of(tokenizer)
        self._source = source
        self._kept: dict[int, Row] = {}

    def __call__(self, indices: Sequence[int] | np.ndarray) -> HostBatch:
        """The batch of the examples at `indices`, int `[rows]`, one row each."""
        shape = (len(indices), self._length)
        tokens = np.full(shape, self._padding, np.int32)
        valid = np.zeros(shape, np.bool_)
        answer = np.zeros(shape, np.bool_)
        truncated = np.zeros(len(indices), np.bool_)
        rows = self._rows([int(index) for index in indices])
        for place, row in enumerate(rows):
            tokens[place, : len(row.tokens)] = row.tokens
            valid[place, : row.end] = True
            answer[place, row.prompt : row.end] = True
            truncated[place] = row.truncated
        index = np.asarray(indices, np.int32)
        return HostBatch(
            tokens=tokens, valid=valid, answer=answer, index=index, truncated=truncated
        )

    def _rows(self, indices: list[int]) -> list[Row]:
        rows = {index: self._kept[index] for index in indices if index in self._kept}
        missing = [index for index in dict.fromkeys(indices) if index not in rows]
        if missing:
            made = map(self._layout.row, self._source.__getitems__(missing))
            fresh = dict(zip(missing, made, strict=True))
            rows |= fresh
            if len(self._kept) + len(fresh) <= _KEPT_ROWS:
                self._kept |= fresh
        return [rows[index] for index in indices]


class _HostPlaces:
    """From places of a global batch to the examples that one host reads."""

    def __init__(self, rows: np.ndarray, examples: np.ndarray) -> None:
        self._rows, self._examples = rows, examples

    def __call__(self, places: np.ndarray) -> np.ndarray:
        return self._examples[places[self._rows]]


def batches(
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    rows: np.ndarray | None = None,
    epochs: int | None = None,
    validation: DataConfig | None = None,
) -> grain.IterDataset[HostBatch]:
    """Shuffled batches for training; `iter` of it can save and restore its position.

    Args:
        config: the data and the layout of rows.
        tokenizer: the model's tokenizer.
        rows: int `[host's rows]`, the places of a global batch that this host needs; None for
            all of them.
        epochs: passes over the data, each in another order; None for endless. Batches run across
            the ends of passes, and what is left over at the very end is dropped.
        validation: the rows that the run is judged by, which are checked here too, so that nothing
            is found out at the first evaluation. Prompts that both have are a warning.

    Raises:
        DataError: the data do not fill one batch, or an answer does not fit its row.
        SourceError: a source cannot be opened.
    """
    source, examples = _open(config, tokenizer)
    if validation is not None:
        judged, _ = _open(validation, tokenizer)
        if not checks.disjoint(config.source, config.split, validation.source, validation.split):
            checks.warn_of_overlap(source, judged)
    if epochs is not None and epochs * len(examples) < config.batch_size:
        raise DataError(
            f"{config.source} {config.split} has {len(examples)} examples: expected enough for a "
            f"batch of {config.batch_size} in {epochs} epoch(s)"
        )
    order = grain.MapDataset.range(len(examples)).seed(config.seed).shuffle().repeat(epochs)
    wanted = np.arange(config.batch_size) if rows is None else rows
    made = (
        order.batch(config.batch_size, drop_remainder=True)
        .map(_HostPlaces(wanted, examples))
        .map(BatchMaker(config, tokenizer, source))
        .to_iter_dataset(_AHEAD)
    )
    if config.workers:
        if not flags.FLAGS.is_parsed():  # grain's workers read flags, a notebook parses none
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=config.workers)
        made = made.mp_prefetch(options, workers.initialize)
    return made


def eval_batches(config: DataConfig, tokenizer: Tokenizer) -> Iterator[HostBatch]:
    """One pass over a split in its own order, every example once.

    The last batch is filled up by repeating its last row with no answer positions, so that
    every batch has one shape and the filling counts for nothing.

    Raises:
        DataError: an answer does not fit its row.
        SourceError: the source cannot be opened.
    """
    source, examples = _open(config, tokenizer)
    make = BatchMaker(config, tokenizer, source)
    for start in range(0, len(examples), config.batch_size):
        places = np.arange(start, start + config.batch_size)
        batch = make(examples[np.minimum(places, len(examples) - 1)])
        batch["answer"][places >= len(examples)] = False
        yield batch


def _open(config: DataConfig, tokenizer: Tokenizer) -> tuple[Source, np.ndarray]:
    """A source whose rows all fit, and the examples that are taken, int32 `[examples]`."""
    source = config.open()
    examples = checks.fitting(
        source, config.layout_of(tokenizer), f"{config.source} {config.split}", config.overlong
    )
    return source, examples
