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
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Literal, get_args

import grain
import numpy as np
from absl import flags

from cd4lm_jax.data import checks, workers
from cd4lm_jax.data.batch_maker import BatchMaker
from cd4lm_jax.data.batch_maker import HostBatch as HostBatch
from cd4lm_jax.data.checks import DataError
from cd4lm_jax.data.conversations import Answers
from cd4lm_jax.data.layouts import Layout, LayoutName, make_layout
from cd4lm_jax.data.packing import NONE, pack
from cd4lm_jax.data.report import DataReport
from cd4lm_jax.data.sources import Joined, Source, open_source
from cd4lm_jax.data.tokenizer import Tokenizer

# Batches made ahead of the training loop, and the threads that make them.
_AHEAD = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on, and how rows are laid out.

    Attributes:
        source: see `open_source`; several files are separated by commas.
        split: of the source, or a slice of one.
        data_dir: where TFDS datasets are.
        layout: how an example becomes a row; see `layouts`.
        answer_length: tokens of the chat layout's answer region: text, EOT, EOS tail.
        max_length: tokens of a row; prompts that do not fit lose their start.
        overlong: an answer that does not fit is an error, or skipped, or cut at its end.
        answers: of a conversation every assistant turn is an answer, or the last alone.
        duplicates: an example that was there before, or whose prompt the validation rows have, is
            kept, or skipped, or an error.
        weights: shares of the rows of a run that come from each of several files; none joins them.
        pack: rows that share a canvas of `max_length` tokens, at most; 1 for a canvas each.
        batch_size: rows of a batch over all hosts; canvases, where rows are packed.
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
    answers: Answers = "every"
    duplicates: Literal["keep", "skip", "error"] = "keep"
    weights: tuple[float, ...] = ()
    pack: int = 1
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
        choices = {
            "layout": get_args(LayoutName),
            "overlong": checks.OVERLONG,
            "answers": get_args(Answers),
            "duplicates": checks.DUPLICATES,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise DataError(
                    f"{name} is {getattr(self, name)!r}: expected one of {', '.join(known)}"
                )
        if self.weights and len(self.weights) != len(self.names):
            raise DataError(
                f"weights has {len(self.weights)} numbers for {len(self.names)} sources: expected "
                "one for each, or none to join them"
            )
        if not all(0 < weight < math.inf for weight in self.weights):
            raise DataError(f"weights is {self.weights}: expected numbers above 0")
        least = {"batch_size": 1, "workers": 0, "max_malformed": 0, "max_length": 2, "pack": 1}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise DataError(f"{name} is {getattr(self, name)}: expected at least {lowest}")

    def open(self) -> Source:
        """The split's examples.

        Raises:
            SourceError: the source cannot be opened.
        """
        sources = [
            open_source(
                name,
                self.split,
                self.data_dir,
                max_malformed=self.max_malformed,
                answers=self.answers,
            )
            for name in self.names
        ]
        return sources[0] if len(sources) == 1 else Joined(sources)

    @property
    def names(self) -> list[str]:
        """The sources."""
        return [name.strip() for name in self.source.split(",")]

    def layout_of(self, tokenizer: Tokenizer) -> Layout:
        """What makes rows of examples."""
        return make_layout(
            self.layout,
            tokenizer,
            answer_length=self.answer_length,
            max_length=self.max_length,
        )


class OpenData:
    """A source whose rows are checked, and the order in which they can be read.

    Attributes:
        report: what was found.
    """

    def __init__(
        self, config: DataConfig, tokenizer: Tokenizer, validation: DataConfig | None = None
    ) -> None:
        """Opens and checks a source, and plans which rows share a canvas.

        Args:
            config: the data and the layout of rows.
            tokenizer: the model's tokenizer.
            validation: the rows that the run is judged by; prompts that both have are counted.

        Raises:
            DataError: rows that `config` calls an error.
            SourceError: a source cannot be opened.
        """
        self._config, self._tokenizer = config, tokenizer
        self._source, self._layout = config.open(), config.layout_of(tokenizer)
        checked = checks.check(
            self._source,
            self._layout,
            f"{config.source} {config.split}",
            overlong=config.overlong,
            duplicates=config.duplicates,
            held_out=_held_out(config, validation),
            measure=config.pack > 1,
        )
        self._rows = {} if config.workers else checked.rows  # processes make their own
        examples, lengths, counts = checked.examples, checked.lengths, checked.counts
        parts = [np.ones(len(examples), np.bool_)]
        if config.weights and isinstance(self._source, Joined):
            starts = itertools.pairwise(self._source.starts)
            parts = [(examples >= first) & (examples < end) for first, end in starts]
        units = [examples[part] for part in parts]
        for name, unit in zip(config.names, units, strict=False):
            if not len(unit):
                raise DataError(f"nothing of {name} is left; give no weight to it, or other rows")
        if config.pack > 1:
            assert lengths is not None  # they were asked for
            units = [
                _places(unit, pack(lengths[part], config.max_length, config.pack, config.seed))
                for unit, part in zip(units, parts, strict=True)
            ]
            canvases = sum(map(len, units))
            counts += Counter(canvases=canvases, canvas_tokens=canvases * config.max_length)
        self._units = units
        self.report = DataReport(source=config.source, split=config.split, counts=dict(counts))

    def __len__(self) -> int:
        """Canvases; rows where none are packed."""
        return sum(map(len, self._units))

    def batches(
        self, *, rows: np.ndarray | None = None, epochs: int | None = None
    ) -> grain.IterDataset[HostBatch]:
        """Shuffled batches; arguments as for the function `batches`."""
        config = self._config
        if epochs is not None and epochs * len(self) < config.batch_size:
            what = "canvases" if config.pack > 1 else "examples"
            raise DataError(
                f"{config.source} {config.split} has {len(self)} {what}: expected enough for a "
                f"batch of {config.batch_size} in {epochs} epoch(s)"
            )
        bounds = itertools.pairwise([0, *itertools.accumulate(map(len, self._units))])
        orders = [
            grain.MapDataset.range(*bound).seed(config.seed).shuffle().repeat(epochs)
            for bound in bounds
        ]
        order = orders[0]
        if len(orders) > 1:
            order = grain.MapDataset.mix(orders, weights=config.weights)
        wanted = np.arange(config.batch_size) if rows is None else rows
        made = (
            order.batch(config.batch_size, drop_remainder=True)
            .map(_HostPlaces(wanted, np.concatenate(self._units)))
            .map(self._maker())
            .to_iter_dataset(_AHEAD)
        )
        if config.workers:
            if not flags.FLAGS.is_parsed():  # grain's workers read flags, a notebook parses none
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=config.workers)
            made = made.mp_prefetch(options, workers.initialize)
        return made

    def once(self, rows: np.ndarray | None = None) -> Iterator[HostBatch]:
        """Every example once; see the function `eval_batches`."""
        config, make = self._config, self._maker()
        units = np.concatenate(self._units)
        wanted = np.arange(config.batch_size) if rows is None else rows
        for start in range(0, len(units), config.batch_size):
            places = start + wanted
            batch = make(units[np.minimum(places, len(units) - 1)])
            filling = np.repeat(places >= len(units), config.pack)
            batch["answer"][filling] = False
            yield batch

    def _maker(self) -> BatchMaker:
        return BatchMaker(
            self._layout,
            self._source,
            length=self._config.max_length,
            padding=self._tokenizer.eos_id,
            made=self._rows,
        )


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
        validation: the rows that the run is judged by. Prompts that both have are counted.

    Raises:
        DataError: the data do not fill one batch, or an answer does not fit its row.
        SourceError: a source cannot be opened.
    """
    opened = OpenData(config, tokenizer, validation)
    return opened.batches(rows=rows, epochs=epochs)


def eval_batches(
    config: DataConfig, tokenizer: Tokenizer, rows: np.ndarray | None = None
) -> Iterator[HostBatch]:
    """One pass over a split in its own order, every example once.

    The last batch is filled up by repeating its last row with no answer positions, so that
    every batch has one shape and the filling counts for nothing.

    Args:
        config: the data and the layout of rows.
        tokenizer: the model's tokenizer.
        rows: as for `batches`.

    Raises:
        DataError: an answer does not fit its row.
        SourceError: the source cannot be opened.
    """
    return OpenData(config, tokenizer).once(rows)


def _held_out(config: DataConfig, validation: DataConfig | None) -> Source | None:
    """The validation rows, where some of them may be in the data."""
    if validation is None or checks.disjoint(
        config.source, config.split, validation.source, validation.split
    ):
        return None
    return validation.open()


def _places(examples: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """The examples of a plan's rows, int32 `[canvases, rows of each]`."""
    return np.where(packed == NONE, NONE, examples[packed])
