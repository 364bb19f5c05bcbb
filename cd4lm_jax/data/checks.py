"""Checks of a source when it is opened: answers that do not fit, rows that validate themselves."""

from __future__ import annotations

import logging

import numpy as np

from cd4lm_jax.data.conversations import Example, conversation
from cd4lm_jax.data.layouts import Layout
from cd4lm_jax.data.sources import Source, is_file

OVERLONG = ("error", "skip", "cut")
_PART = 8192  # examples read at once


class DataError(ValueError):
    """Settings or examples that no batch can be made of."""


def fitting(source: Source, layout: Layout, name: str, overlong: str) -> np.ndarray:
    """The examples of a source that are taken.

    Args:
        source: the examples.
        layout: what makes rows of them.
        name: of the source, for messages.
        overlong: `error`, `skip` or `cut`: what becomes of answers that do not fit.

    Returns:
        Places in the source, int32 `[examples]`.

    Raises:
        DataError: an answer does not fit and `overlong` is `error`, or none is left.
    """
    every = np.arange(len(source), dtype=np.int32)
    longest = source.longest_answers() if layout.counts_answers_alone else None
    if longest is not None:
        known = [Example(question="", answer=answer) for answer in longest]
        if max(layout.sizes(known)) <= layout.room:
            return every
    sizes = np.concatenate(
        [
            layout.sizes(source.__getitems__(range(len(source))[start : start + _PART]))
            for start in range(0, len(source), _PART)
        ]
    )
    (long,) = np.nonzero(sizes > layout.room)
    if not long.size:
        return every
    first = int(long[0])
    what = (
        f"{source.where(first)}: its answer has {sizes[first]} tokens, expected at most "
        f"{layout.room} {layout.advice}"
    )
    count = f"{len(long)} of {len(source)} answers are too long"
    if overlong == "error":
        raise DataError(f"{what}; {count}: make room, or give overlong=skip or overlong=cut")
    done = {"skip": "skipped", "cut": "cut"}[overlong]
    logging.getLogger(__name__).warning("%s: %s and %s, the first: %s", name, count, done, what)
    if overlong == "cut":
        return every
    if len(long) == len(source):
        raise DataError(f"{name}: every answer is too long, so nothing is left; {what}")
    return np.delete(every, long)


def disjoint(source: str, split: str, other_source: str, other_split: str) -> bool:
    """Whether two splits are of one dataset that has each example in one split alone."""
    return (
        not is_file(source)
        and source.partition("/")[0] == other_source.partition("/")[0]
        and split.partition("[")[0] != other_split.partition("[")[0]
    )


def warn_of_overlap(training: Source, validation: Source) -> int:
    """Warns where prompts of the validation rows are trained on.

    Returns:
        How many validation rows there are of which the prompt is in the training rows.
    """
    prompts = {_prompt(example) for _, example in _examples(training)}
    shared = [place for place, example in _examples(validation) if _prompt(example) in prompts]
    if shared:
        logging.getLogger(__name__).warning(
            "%d of %d validation rows have a prompt that is trained on (the first: %s): the "
            "validation loss then measures memorisation; give rows of their own",
            len(shared),
            len(validation),
            validation.where(shared[0]),
        )
    return len(shared)


def _examples(source: Source) -> list[tuple[int, Example]]:
    return list(enumerate(source.__getitems__(range(len(source)))))


def _prompt(example: Example) -> tuple[str, ...]:
    return tuple(message["content"].strip() for message in conversation(example))
