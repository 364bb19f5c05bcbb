"""Batches of token rows: a grain pipeline from a source of questions and answers.

A row is `[prompt | answer | EOT | EOS ... | right padding]`. The answer region has a fixed
length and all of it is trained, the EOS tail included: that is how the model learns to end.
All batches have one shape, so a step compiles once.

What is shuffled, repeated and split among hosts are indices; the examples behind a batch of
indices are then read and tokenised together. So every host sees the same order, and the rows of
a global batch do not depend on how many hosts share it.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypedDict

import grain
import numpy as np
from absl import flags

from cd4lm_jax.data.sources import Example, Source, open_source
from cd4lm_jax.data.tokenizer import Tokenizer

# Batches made ahead of the training loop, and the threads that make them.
_AHEAD = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
_KEPT_ROWS = 250_000


class DataError(ValueError):
    """Settings or examples that no batch can be made of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on, and how rows are laid out."""

    source: str = "gsm_mini/full"  # see `open_source`
    split: str = "pretrain"
    data_dir: str | None = None  # where TFDS datasets live
    answer_length: int = 64  # tokens of the answer region: text, EOT, EOS tail
    max_length: int = 128  # tokens of a row; prompts that do not fit lose their start
    batch_size: int = 64  # rows of a batch over all hosts
    seed: int = 0  # of the order
    workers: int = 0  # processes that make batches; 0 for a thread of this one
    max_malformed: int = 0  # faulty records of a file that are skipped before one is an error

    def __post_init__(self) -> None:
        if self.answer_length < 2:
            raise DataError(f"answer_length is {self.answer_length}: expected at least 2")
        if self.max_length <= self.answer_length:
            raise DataError(
                f"max_length is {self.max_length}: expected more than answer_length, "
                f"{self.answer_length}, to leave room for a prompt"
            )
        for name, least in (("batch_size", 1), ("workers", 0), ("max_malformed", 0)):
            if getattr(self, name) < least:
                raise DataError(f"{name} is {getattr(self, name)}: expected at least {least}")

    def open(self) -> Source:
        """The split's examples.

        Raises:
          SourceError: the source cannot be opened.
        """
        return open_source(self.source, self.split, self.data_dir, max_malformed=self.max_malformed)


class Batch(TypedDict):
    """Arrays of a batch, every one with a leading batch axis."""

    tokens: np.ndarray  # int32 [batch, length]
    valid: np.ndarray  # bool [batch, length]: not padding
    answer: np.ndarray  # bool [batch, length]: may be masked, a part of `valid`
    index: np.ndarray  # int32 [batch]: the example's place in its split
    truncated: np.ndarray  # bool [batch]: the prompt was too long and lost its start


class _Row(NamedTuple):
    tokens: np.ndarray  # int32 [length]: prompt, answer text, EOT
    prompt: int  # how many of them are the prompt
    truncated: bool


class BatchMaker:
    """Turns indices of a source into a batch.

    Reading and tokenising an example costs ten times as much as copying it, so what was made
    once is kept (about 0.6 kB an example), up to a limit.
    """

    def __init__(self, config: DataConfig, tokenizer: Tokenizer, source: Source) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._source = source
        self._kept: dict[int, _Row] = {}

    def __call__(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The batch of the examples at `indices`, one row each.

        Raises:
          DataError: an answer does not fit the answer region.
        """
        shape = (len(indices), self._config.max_length)
        tokens = np.full(shape, self._tokenizer.eos_id, np.int32)
        valid = np.zeros(shape, np.bool_)
        answer = np.zeros(shape, np.bool_)
        truncated = np.zeros(len(indices), np.bool_)
        rows = self._rows([int(index) for index in indices])
        for place, (text, prompt, truncated[place]) in enumerate(rows):
            end = prompt + self._config.answer_length
            tokens[place, : len(text)] = text
            valid[place, :end] = True
            answer[place, prompt:end] = True
        index = np.asarray(indices, np.int32)
        return Batch(tokens=tokens, valid=valid, answer=answer, index=index, truncated=truncated)

    def _rows(self, indices: list[int]) -> list[_Row]:
        rows = {index: self._kept[index] for index in indices if index in self._kept}
        missing = [index for index in dict.fromkeys(indices) if index not in rows]
        if missing:
            made = map(self._row, missing, self._source.__getitems__(missing))
            fresh = dict(zip(missing, made, strict=True))
            rows |= fresh
            if len(self._kept) + len(fresh) <= _KEPT_ROWS:
                self._kept |= fresh
        return [rows[index] for index in indices]

    def _row(self, index: int, example: Example) -> _Row:
        config = self._config
        whole = self._tokenizer.prompt(example["question"])
        prompt = whole[-(config.max_length - config.answer_length) :]
        text = self._tokenizer.encode(example["answer"])
        if len(text) >= config.answer_length:
            raise DataError(
                f"example {index} of {config.source} {config.split}: its answer has {len(text)} "
                f"tokens, expected at most {config.answer_length - 1} to fit answer_length "
                f"{config.answer_length} with its end of turn"
            )
        tokens = np.array([*prompt, *text, self._tokenizer.eot_id], np.int32)
        return _Row(tokens=tokens, prompt=len(prompt), truncated=len(prompt) < len(whole))


class _HostRows:
    """The rows of a global batch that one host reads."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        return indices[self._rows]


def batches(
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    rows: np.ndarray | None = None,
    epochs: int | None = None,
) -> grain.IterDataset[Batch]:
    """Shuffled batches for training; `iter` of it can save and restore its position.

    Args:
      config: the data and the layout of rows.
      tokenizer: the model's tokenizer.
      rows: int ``[host's rows]``, the places of a global batch that this host needs; None for
        all of them.
      epochs: passes over the data, each in another order; None for endless. Batches run across
        the ends of passes, and what is left over at the very end is dropped.

    Raises:
      DataError: the data do not fill one batch.
      SourceError: the source cannot be opened.
    """
    source = config.open()
    if epochs is not None and epochs * len(source) < config.batch_size:
        raise DataError(
            f"{config.source} {config.split} has {len(source)} examples: expected enough for a "
            f"batch of {config.batch_size} in {epochs} epoch(s)"
        )
    order = grain.MapDataset.range(len(source)).seed(config.seed).shuffle().repeat(epochs)
    wanted = np.arange(config.batch_size) if rows is None else rows
    made = (
        order.batch(config.batch_size, drop_remainder=True)
        .map(_HostRows(wanted))
        .map(BatchMaker(config, tokenizer, source))
        .to_iter_dataset(_AHEAD)
    )
    if config.workers:
        if not flags.FLAGS.is_parsed():  # grain's workers read flags, a notebook parses none
            flags.FLAGS.mark_as_parsed()
        made = made.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=config.workers), _leave_signals_to_the_run
        )
    return made


def _leave_signals_to_the_run(worker: int, workers: int) -> None:
    """In a worker: Ctrl-C and Slurm's SIGTERM reach all processes, but the last step needs it."""
    del worker, workers
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def eval_batches(config: DataConfig, tokenizer: Tokenizer) -> Iterator[Batch]:
    """One pass over a split in its own order, every example once.

    The last batch is filled up by repeating its last row with no answer positions, so that
    every batch has one shape and the filling counts for nothing.

    Raises:
      SourceError: the source cannot be opened.
    """
    source = config.open()
    make = BatchMaker(config, tokenizer, source)
    for start in range(0, len(source), config.batch_size):
        places = np.arange(start, start + config.batch_size)
        batch = make(np.minimum(places, len(source) - 1))
        batch["answer"][places >= len(source)] = False
        yield batch
