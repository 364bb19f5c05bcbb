"""Why a position of a decode has the token that it has."""

from __future__ import annotations

import enum


class Reason(enum.IntEnum):
    """Why a position has the token that it has.

    Attributes:
        TAIL: filled after the row had ended, not decoded.
        RULE: committed by the commit rule.
        MINIMUM: not good enough for the rule; committed to keep the least number a pass.
        LIMIT: committed because the block's or the row's passes were used up.
        GIVEN: fixed from the start (infilling).
        EDITED: replaced after it had been committed (token editing).
    """

    TAIL = 0
    RULE = 1
    MINIMUM = 2
    LIMIT = 3
    GIVEN = 4
    EDITED = 5
