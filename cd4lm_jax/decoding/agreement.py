"""How alike two decodes are, as sequences of token ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def edit_distance(first: Sequence[int], second: Sequence[int]) -> int:
    """Fewest insertions, deletions and replacements between token sequences (Levenshtein).

    >>> edit_distance([1, 2, 3], [2, 3, 4])
    2
    """
    target = np.asarray(second, np.int64)
    place = np.arange(len(target) + 1)
    row = place.copy()
    for count, token in enumerate(first, 1):
        step = np.minimum(row[1:] + 1, row[:-1] + (target != token))
        step = np.concatenate([[count], step])
        row = np.minimum.accumulate(step - place) + place  # insertions, from left to right
    return int(row[-1])


def similarity(answer: Sequence[int], reference: Sequence[int]) -> float:
    """1 for equal sequences, 0 for sequences without anything in common."""
    longer = max(len(answer), len(reference))
    return 1.0 if not longer else 1 - edit_distance(answer, reference) / longer
