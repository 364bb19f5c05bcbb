"""Where examples come from: TFDS datasets, local files, and several of these.

gsm_mini/full, gsm_mini/distill   generated here when their files are missing
gsm8k                             TFDS's own builder, prepared beforehand
path/to/file.jsonl, a folder      rows of any form in `conversations`, in files of any form in
                                  `row_files`; of a file's splits only slices count, "train[:95%]"
"""

from __future__ import annotations

import bisect
import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cd4lm_jax.data.conversations import Answers, Example, RowError, Turns, turns
from cd4lm_jax.data.row_files import SourceError as SourceError
from cd4lm_jax.data.row_files import is_file, read_records
from cd4lm_jax.runtime.json_files import JsonFileError, Record

DataDir = str | os.PathLike[str] | None


class Source(Protocol):
    """Examples by their place in a split."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        """Several at once, which is much faster for files on disk."""
        ...

    def where(self, index: int) -> str:
        """The place of an example in words: file and line."""
        ...

    def longest_answers(self) -> list[str] | None:
        """Answers at least as long as any of the source, where they are known without reading."""
        ...

    def counts(self) -> Counter[str]:
        """What was found when it was opened, for the report of a run's data."""
        ...


class _Placed(NamedTuple):
    example: Example
    where: str


class FileSource:
    """The examples of a file, in memory.

    Attributes:
        skipped: assistant turns that answer nothing: without words, or before any user turn.
    """

    def __init__(
        self, examples: Sequence[_Placed], *, rows: int = 0, skipped: int = 0, malformed: int = 0
    ) -> None:
        self._examples = examples
        self._rows, self.skipped, self._malformed = rows, skipped, malformed

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index].example

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        return [self[index] for index in indices]

    def where(self, index: int) -> str:
        """File and line."""
        return self._examples[index].where

    def longest_answers(self) -> None:
        """Not known."""

    def counts(self) -> Counter[str]:
        """Rows, those that are malformed, and turns that answer nothing."""
        return Counter(rows=self._rows, malformed=self._malformed, empty_turns=self.skipped)


class TfdsSource:
    """The examples of a TFDS split, read from ArrayRecord files as they are asked for."""

    def __init__(
        self, rows: Any, name: str, longest: Callable[[], Iterator[str]] | None = None
    ) -> None:
        """Takes TFDS's rows.

        Args:
            rows: a data source of TFDS.
            name: dataset and split, for messages.
            longest: answers at least as long as any of the rows'.
        """
        self._rows, self._name, self._longest = rows, name, longest

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        return [
            {"question": row["question"].decode(), "answer": row["answer"].decode()}
            for row in self._rows.__getitems__([int(index) for index in indices])
        ]

    def where(self, index: int) -> str:
        """Dataset, split and number."""
        return f"{self._name}, example {index}"

    def longest_answers(self) -> list[str] | None:
        """Those of a generated dataset."""
        return None if self._longest is None else list(self._longest())

    def counts(self) -> Counter[str]:
        """Rows."""
        return Counter(rows=len(self))


class Joined:
    """The examples of several sources, one after the other.

    Attributes:
        starts: the place of the first example of each, and in the end their number.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self.starts = [0, *itertools.accumulate(map(len, sources))]

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int) -> Example:
        source, place = self._find(index)
        return source[place]

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        return [self[int(index)] for index in indices]

    def where(self, index: int) -> str:
        """The place in its own source."""
        source, place = self._find(index)
        return source.where(place)

    def longest_answers(self) -> list[str] | None:
        """Those of all, where each knows them."""
        found = [source.longest_answers() for source in self._sources]
        return None if None in found else [answer for each in found for answer in each or ()]

    def counts(self) -> Counter[str]:
        """The sums."""
        return sum((source.counts() for source in self._sources), Counter())

    def _find(self, index: int) -> tuple[Source, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        number = bisect.bisect_right(self.starts, index) - 1
        return self._sources[number], index - self.starts[number]


def open_source(
    name: str,
    split: str,
    data_dir: DataDir = None,
    *,
    max_malformed: int = 0,
    answers: Answers = "every",
    unanswered: bool = False,
) -> Source:
    """Opens a split of a dataset for random access.

    Args:
        name: "gsm_mini/full", "gsm_mini/distill", "gsm8k", or the path of a file or folder, see
            `row_files`.
        split: a split of the dataset, or a slice of one in TFDS's notation ("train[:90%]"). A file
            is one split, whatever the name; a slice of it is a slice of its rows.
        data_dir: where TFDS datasets are; None for TFDS's own default.
        max_malformed: faulty rows of a file that are skipped, and counted in a warning.
        answers: which assistant turns of a file's rows are answers.
        unanswered: take the questions of a file's rows, whether or not they have answers.

    Raises:
        SourceError: no such dataset, split or file, or the file holds no examples, or more faulty
            rows than are skipped: the first that is too many is named.
    """
    if is_file(name):
        return _read_file(
            name, split, max_malformed, lambda row: turns(row, answers, unanswered=unanswered)
        )
    dataset, _, config = name.partition("/")
    longest: Callable[[], Iterator[str]] | None = None
    if dataset == "gsm_mini":
        # Imported here because it takes seconds, and a JSON file needs none of it.
        from cd4lm_jax.data.gsm_mini.builder import GsmMini, prepare
        from cd4lm_jax.data.gsm_mini.generate import longest_answers

        longest = longest_answers
        known = [known.name for known in GsmMini.BUILDER_CONFIGS]
        if config and config not in known:
            raise SourceError(
                f"no dataset {name!r}: expected gsm_mini/{' or gsm_mini/'.join(known)}"
            )
        builder: Any = prepare(config or known[0], data_dir)
    elif name == "gsm8k":
        builder = _prepared_gsm8k(data_dir)
    else:
        raise SourceError(
            f"no data source {name!r}: expected gsm_mini/full, gsm_mini/distill, gsm8k, or the "
            "path of a .jsonl, .json or .parquet file or of a folder that `datasets` saved"
        )
    if split.partition("[")[0] not in builder.info.splits:
        raise SourceError(
            f"{name} has no split {split!r}: expected one of {[*builder.info.splits]}"
        )
    return TfdsSource(builder.as_data_source(split=split), f"{name} {split}", longest)


def _prepared_gsm8k(data_dir: DataDir) -> Any:
    """TFDS's builder of GSM8K, its files already on disk; nothing is downloaded here."""
    from tensorflow_datasets.text.gsm8k.gsm8k import Gsm8k

    folder = None if data_dir is None else os.fspath(data_dir)
    builder = Gsm8k(data_dir=folder, file_format="array_record")
    if not (Path(builder.data_path) / "dataset_info.json").is_file():
        raise SourceError(
            f"gsm8k is not in {builder.data_path}: name a .jsonl file of it, or let TFDS fetch it "
            'with `python -c "from tensorflow_datasets.text.gsm8k.gsm8k import Gsm8k; '
            f"Gsm8k(data_dir={folder!r}, file_format='array_record').download_and_prepare()\"`"
        )
    return builder


def _read_file(
    name: str, split: str, max_malformed: int, read: Callable[[Any], Turns]
) -> FileSource:
    rows: list[tuple[list[_Placed], int]] = []
    malformed: list[SourceError] = []
    for record in read_records(name, split):
        try:
            rows.append(_examples(record, read))
        except SourceError as error:
            malformed.append(error)
            if len(malformed) <= max_malformed:
                continue
            if not max_malformed:
                raise
            raise SourceError(
                f"{error}; it is malformed record {len(malformed)} of the file, and max_malformed "
                f"is {max_malformed}: correct the file or raise the limit"
            ) from error
    log = logging.getLogger(__name__)
    if malformed:
        log.warning(
            "%s: %d malformed records skipped, the first at %s", name, len(malformed), malformed[0]
        )
    if not rows:
        raise SourceError(f"{name} is empty: expected an object with question and answer a line")
    part = rows[_slice(len(rows), name, split)]
    if skipped := sum(count for _, count in part):
        log.warning(
            "%s: %d assistant turns skipped, without words or before any user turn", name, skipped
        )
    examples = [example for found, _ in part for example in found]
    if not examples:
        raise SourceError(f"{name} {split} holds no answer: all assistant turns are empty")
    return FileSource(examples, rows=len(part), skipped=skipped, malformed=len(malformed))


def _examples(record: Record, read: Callable[[Any], Turns]) -> tuple[list[_Placed], int]:
    """The examples of a row, and how many assistant turns of it answer nothing."""
    try:
        found = read(record.get())
    except JsonFileError as error:
        raise SourceError(str(error)) from error
    except RowError as error:
        raise SourceError(f"{record.where}: {error}") from error
    return [_Placed(example, record.where) for example in found.examples], found.skipped


def _slice(rows: int, name: str, split: str) -> slice:
    """The rows of a file that a split names, rounded as TFDS rounds percentages."""
    match = re.fullmatch(r"[^\[]*(?:\[(\d+%?)?:(\d+%?)?\])?", split)
    if match is None:
        raise SourceError(
            f"{name} has no split {split!r}: expected a name, or a slice such as train[:95%] or "
            "train[1000:]"
        )

    def place(bound: str | None, default: int) -> int:
        if bound is None:
            return default
        if bound.endswith("%"):
            return round(rows * int(bound[:-1]) / 100)
        return int(bound)

    part = slice(place(match[1], 0), place(match[2], rows))
    if not range(rows)[part]:
        raise SourceError(f"{name} has {rows} examples, none of them in {split!r}")
    return part
