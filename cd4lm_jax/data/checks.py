"""Checks of a source when it is opened: what does not fit, is empty, or is there twice."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

from cd4lm_jax.data.conversations import Example, conversation
from cd4lm_jax.data.layouts import Layout, Row
from cd4lm_jax.data.row_files import is_file
from cd4lm_jax.data.sources import Source

OVERLONG = ("error", "skip", "cut")
DUPLICATES = ("keep", "skip", "error")
_PART = 8192  # examples read at once
_KEPT_ROWS = 250_000  # about 0.6 kB each

_log = logging.getLogger(__name__)


class DataError(ValueError):
    """Settings or examples that no batch can be made of."""


class Checked(NamedTuple):
    """What is left of a source.

    Attributes:
        examples: places in the source, int32 `[examples]`.
        lengths: tokens of their rows, int32 `[examples]`; None where rows were not made.
        rows: rows that were made, by place in the source, up to a limit.
        counts: see `cd4lm_jax.data.report.DataReport`.
    """

    examples: np.ndarray
    lengths: np.ndarray | None
    rows: dict[int, Row]
    counts: Counter[str]


def check(
    source: Source,
    layout: Layout,
    name: str,
    *,
    overlong: str = "error",
    duplicates: str = "keep",
    held_out: Source | None = None,
    measure: bool = False,
) -> Checked:
    """The examples of a source that are taken.

    A generated source is not read where what is known of it suffices.

    Args:
        source: the examples.
        layout: what makes rows of them.
        name: of the source, for messages.
        overlong: `error`, `skip` or `cut`: what becomes of answers that do not fit.
        duplicates: `keep`, `skip` or `error`: what becomes of examples that were there before, or
            whose prompt `held_out` has.
        held_out: the validation rows; None for none.
        measure: lengths are needed.

    Raises:
        DataError: an answer that does not fit, an example that is there twice, where that is an
            error; a conversation that the chat template refuses; or nothing is left.
    """
    every = np.arange(len(source), dtype=np.int32)
    counts = source.counts() + Counter(answers=len(source))
    shared = _shared(source, held_out)
    if _known_to_fit(source, layout) and duplicates == "keep" and not measure:
        if shared:
            _warn_of_overlap(source, held_out, shared)
        return Checked(every, None, {}, counts + Counter(taken=len(source), shared=len(shared)))
    rows = _Rows(source, layout)
    repeated = rows.make()
    in_validation = np.isin(every, shared)
    long, empty = rows.sizes > layout.room, rows.sizes == 0
    counts += Counter(duplicates=int(repeated.sum()), shared=len(shared))
    if long.any():
        _judge_long(source, layout, rows.sizes, long, name, overlong)
    if empty.any():
        _log.warning(
            "%s: %d answers skipped, of which the chat template writes nothing, the first: %s",
            name,
            empty.sum(),
            source.where(int(empty.argmax())),
        )
    if duplicates == "error":
        _refuse_repeated(source, repeated, in_validation)
    if shared and duplicates == "keep":
        _warn_of_overlap(source, held_out, shared)
    reasons = {"empty_answers": empty}
    if overlong == "skip":
        reasons["too_long"] = long
    if duplicates == "skip":
        reasons |= {"repeated": repeated, "in_validation": in_validation}
    left = np.zeros(len(source), np.bool_)
    for reason, why in reasons.items():
        counts[reason] = int((why & ~left).sum())
        left |= why
    if left.all():
        what = ", ".join(f"{counts[reason]} {reason}" for reason in reasons if counts[reason])
        raise DataError(f"{name}: every answer was left out ({what}), so nothing is left")
    taken = ~left
    counts += Counter(
        taken=int(taken.sum()),
        cut_answers=int((long & taken).sum()),
        cut_prompts=int((rows.truncated & taken).sum()),
        tokens=int(rows.lengths[taken].sum()),
        answer_tokens=int((rows.lengths - rows.prompts)[taken].sum()),
        longest_prompt=int(rows.prompts[taken].max()),
        longest_answer=int(rows.sizes[taken].max()),
    )
    return Checked(every[taken], rows.lengths[taken], rows.kept, counts)


class _Rows:
    """Rows as they are made, and their sizes, `[examples]` each."""

    def __init__(self, source: Source, layout: Layout) -> None:
        self._source, self._layout = source, layout
        self.kept: dict[int, Row] = {}
        self.sizes, self.prompts, self.lengths = np.zeros((3, len(source)), np.int32)
        self.truncated = np.zeros(len(source), np.bool_)

    def make(self) -> np.ndarray:
        """Makes all rows; which examples were there before, bool `[examples]`.

        Raises:
            DataError: the chat template refuses an example, or it is no text; it is named.
        """
        repeated, seen = np.zeros(len(self._source), np.bool_), set()
        for place, example in _examples(self._source):
            self._add(place, example)
            key = hash(json.dumps(example, sort_keys=True, default=str))
            repeated[place] = key in seen
            seen.add(key)
        return repeated

    def _add(self, place: int, example: Example) -> None:
        try:
            row = self._layout.row(example)
        except ValueError as error:
            raise DataError(f"{self._source.where(place)}: {error}") from error
        self.sizes[place], self.prompts[place], self.lengths[place] = row.size, row.prompt, row.end
        self.truncated[place] = row.truncated
        if len(self.kept) < _KEPT_ROWS:
            self.kept[place] = row


def disjoint(source: str, split: str, other_source: str, other_split: str) -> bool:
    """Whether two splits are of one dataset that has each example in one split alone."""
    return (
        not is_file(source)
        and source.partition("/")[0] == other_source.partition("/")[0]
        and split.partition("[")[0] != other_split.partition("[")[0]
    )


def _known_to_fit(source: Source, layout: Layout) -> bool:
    longest = source.longest_answers() if layout.counts_answers_alone else None
    if longest is None:
        return False
    known = (layout.row(Example(question="", answer=answer)) for answer in longest)
    return max(row.size for row in known) <= layout.room


def _judge_long(
    source: Source, layout: Layout, sizes: np.ndarray, long: np.ndarray, name: str, overlong: str
) -> None:
    """Raises or warns, as `overlong` says."""
    first = int(long.argmax())
    what = (
        f"{source.where(first)}: its answer has {sizes[first]} tokens, expected at most "
        f"{layout.room} {layout.advice}"
    )
    count = f"{long.sum()} of {len(source)} answers are too long"
    if overlong == "error":
        raise DataError(f"{what}; {count}: make room, or give overlong=skip or overlong=cut")
    done = {"skip": "skipped", "cut": "cut"}[overlong]
    _log.warning("%s: %s and %s, the first: %s", name, count, done, what)
    if overlong == "skip" and long.all():
        raise DataError(f"{name}: every answer is too long, so nothing is left; {what}")


def _refuse_repeated(source: Source, repeated: np.ndarray, in_validation: np.ndarray) -> None:
    found = repeated | in_validation
    if found.any():
        first = int(found.argmax())
        why = "is there twice" if repeated[first] else "has a prompt of the validation rows"
        raise DataError(
            f"{source.where(first)} {why}; {found.sum()} of {len(source)} examples are so: remove "
            "them, or give duplicates=skip or keep"
        )


def _shared(training: Source, held_out: Source | None) -> list[int]:
    """Places of the training examples whose prompt a validation row has."""
    if held_out is None:
        return []
    prompts = {_prompt(example) for _, example in _examples(held_out)}
    return [place for place, example in _examples(training) if _prompt(example) in prompts]


def _warn_of_overlap(training: Source, held_out: Source | None, shared: Collection[int]) -> None:
    assert held_out is not None  # something is shared
    prompts = {_prompt(training[place]) for place in shared}
    rows = [place for place, example in _examples(held_out) if _prompt(example) in prompts]
    _log.warning(
        "%d of %d validation rows have a prompt that is trained on (the first: %s): the "
        "validation loss then measures memorisation; give rows of their own",
        len(rows),
        len(held_out),
        held_out.where(rows[0]),
    )


def _examples(source: Source) -> Iterator[tuple[int, Example]]:
    for start in range(0, len(source), _PART):
        part = range(start, min(start + _PART, len(source)))
        yield from zip(part, source.__getitems__(part), strict=True)


def _prompt(example: Example) -> tuple[str, ...]:
    return tuple(message["content"].strip() for message in conversation(example))
