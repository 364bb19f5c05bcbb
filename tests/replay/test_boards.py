from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.replay import boards
from cd4lm_jax.replay.boards import Replay

RULE, MINIMUM, LIMIT, GIVEN, TAIL = (
    Reason.RULE,
    Reason.MINIMUM,
    Reason.LIMIT,
    Reason.GIVEN,
    Reason.TAIL,
)
REPLAY = Replay(
    question="How many?",
    reference="7",
    title="student, confidence:0.9",
    tokens=["#", " 7", "\n", "<|eot_id|>", " ", "<|endoftext|>", "<|endoftext|>"],
    committed_at=[1, 3, 1, 1, 3, 0, 0],
    confidence=[1.0, 0.75, 0.4, 0.9, 0.9, 0.0, 0.0],
    reason=[RULE, LIMIT, MINIMUM, RULE, LIMIT, TAIL, TAIL],
    nfe=4,
    correct=True,
    group=0,
)


def test_the_tail_that_was_never_decoded_is_only_counted() -> None:
    board = boards.board(REPLAY)
    assert [chip.label for chip in board.chips] == ["#", " 7", "\u21b5", "EOT", "\u2423"]
    assert [chip.special for chip in board.chips] == [False, False, False, True, False]
    assert [chip.breaks for chip in board.chips] == [False, False, True, False, False]
    assert board.tail == 2


def test_what_was_given_is_part_of_the_answer_from_the_start() -> None:
    given = dataclasses.replace(
        REPLAY,
        committed_at=[1, 0, 2, 0, 0, 0, 0],
        reason=[RULE, GIVEN, RULE, TAIL, GIVEN, TAIL, TAIL],
    )
    board = boards.board(given)
    assert (board.given, board.tail) == (2, 2)
    assert [chip.due for chip in board.chips] == [1, 0, 2, 4, 0]
    assert board.chips[4].tooltip == "position 5: given from the start"


def test_control_characters_are_shown_and_not_sent() -> None:
    tokens = ["\x1b[2J", "a\x00\x7f", "\x9b", "", "  ", "\t\r", "\n\n"]
    chips = boards.board(dataclasses.replace(REPLAY, tokens=tokens, reason=[RULE] * 7)).chips
    assert [chip.label for chip in chips] == [
        *("\u241b[2J", "a\u2400\ufffd", "\ufffd", "\u2205"),
        *("\u2423\u2423", "\u21e5\u21b5", "\u21b5\u21b5"),
    ]


def test_bars_count_what_each_pass_committed() -> None:
    assert boards.board(REPLAY).bars == [3, 0, 2, 0]


def test_colour_spends_its_range_on_high_confidence() -> None:
    heat = [chip.heat for chip in boards.board(REPLAY).chips]
    assert heat == pytest.approx([1.0, 0.5, 0.0, 0.8, 0.8])


def test_tooltips_name_position_pass_reason_and_confidence() -> None:
    gap = dataclasses.replace(REPLAY, reason=[RULE, LIMIT, MINIMUM, TAIL, LIMIT, TAIL, TAIL])
    assert [chip.tooltip for chip in boards.board(gap).chips[:4]] == [
        "position 1: committed in pass 1 of 4 by the rule, confidence 1.000",
        "position 2: committed in pass 3 of 4 because its block's or row's passes were used up, "
        "confidence 0.750",
        "position 3: committed in pass 1 of 4 to keep the least number a pass, confidence 0.400",
        "position 4: filled after the end, not decoded",
    ]


def test_problems_keep_their_order_and_their_slowest_passes() -> None:
    other = dataclasses.replace(REPLAY, group=1, question="Why?")
    slow = dataclasses.replace(REPLAY, title="teacher", nfe=9)
    found = boards.problems([REPLAY, other, slow])
    assert [(p.question, p.passes, len(p.boards)) for p in found] == [
        ("How many?", 9, 2),
        ("Why?", 4, 1),
    ]


def test_from_a_row_of_a_trajectory() -> None:
    trajectory = Trajectory(
        tokens=np.array([[1, 2], [3, 4]]),
        committed_at=np.array([[1, 2], [1, 0]]),
        confidence=np.array([[0.5, 0.5], [0.25, 0.0]]),
        reason=np.array([[1, 1], [2, 0]]),
        nfe=np.array([2, 1]),
        length=np.array([2, 1]),
    )
    found = trajectory.replay(
        1,
        text="token {}".format,
        question="q",
        reference="r",
        title="t",
        correct=False,
    )
    assert found == Replay(
        question="q",
        reference="r",
        title="t",
        tokens=["token 3", "token 4"],
        committed_at=[1, 0],
        confidence=[0.25, 0.0],
        reason=[MINIMUM, TAIL],
        nfe=1,
        correct=False,
        group=1,
    )


def test_says_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="got 7, 6, 7, 7"):
        dataclasses.replace(REPLAY, committed_at=[1] * 6)
    with pytest.raises(ValueError, match="between 0 and nfe=4, got 1 to 5"):
        dataclasses.replace(REPLAY, committed_at=[1, 2, 3, 4, 5, 1, 1])
    with pytest.raises(ValueError, match="finite"):
        dataclasses.replace(REPLAY, confidence=[float("nan")] * 7)
