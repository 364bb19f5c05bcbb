from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.replay import chips, page
from cd4lm_jax.replay.chips import Chip
from cd4lm_jax.replay.replays import Panel, Replay

RULE, MINIMUM, LIMIT, GIVEN, TAIL = (
    Reason.RULE,
    Reason.MINIMUM,
    Reason.LIMIT,
    Reason.GIVEN,
    Reason.TAIL,
)
TEXTS = {1: "#", 2: " 7", 3: "\n", 4: "<|eot_id|>", 5: " ", 6: "<|endoftext|>"}
REPLAY = Replay(
    title="student, confidence:0.9",
    tokens=[1, 2, 3, 4, 5, 6, 6],
    committed_at=[1, 3, 1, 1, 3, 0, 0],
    confidence=[1.0, 0.75, 0.4, 0.9, 0.9, 0.0, 0.0],
    reason=[RULE, LIMIT, MINIMUM, RULE, LIMIT, TAIL, TAIL],
    nfe=4,
    correct=True,
)


def drawn(replay: Replay) -> list[Chip]:
    return chips.chips(replay, TEXTS.__getitem__)


def test_the_tail_that_was_never_decoded_is_only_counted() -> None:
    found = drawn(REPLAY)
    assert [chip.label for chip in found] == ["#", " 7", "\u21b5", "EOT", "\u2423"]
    assert [chip.special for chip in found] == [False, False, False, True, False]
    assert [chip.breaks for chip in found] == [False, False, True, False, False]
    assert chips.TextTable(TEXTS.__getitem__).encode(REPLAY)["tail"] == 2


def test_what_was_given_is_part_of_the_answer_from_the_start() -> None:
    given = dataclasses.replace(
        REPLAY,
        committed_at=[1, 0, 2, 0, 0, 0, 0],
        reason=[RULE, GIVEN, RULE, TAIL, GIVEN, TAIL, TAIL],
    )
    assert [chip.due for chip in drawn(given)] == [1, 0, 2, 4, 0]
    assert chips.TextTable(TEXTS.__getitem__).encode(given)["tail"] == 2


def test_control_characters_are_shown_and_not_sent() -> None:
    tokens = ["\x1b[2J", "a\x00\x7f", "\x9b", "", "  ", "\t\r", "\n\n"]
    replay = dataclasses.replace(REPLAY, tokens=range(7), reason=[RULE] * 7)
    assert [chip.label for chip in chips.chips(replay, tokens.__getitem__)] == [
        *("\u241b[2J", "a\u2400\ufffd", "\ufffd", "\u2205"),
        *("\u2423\u2423", "\u21e5\u21b5", "\u21b5\u21b5"),
    ]


def test_colour_spends_its_range_on_high_confidence() -> None:
    heat = [chip.heat for chip in drawn(REPLAY)]
    assert heat == pytest.approx([1.0, 0.5, 0.0, 0.8, 0.8])


def test_a_page_holds_each_text_once_and_the_decodes_of_a_prompt_side_by_side() -> None:
    other = dataclasses.replace(REPLAY, title=None, correct=None)
    panels = [Panel(name="1", question="How many?", replays=[REPLAY, other])]
    found = page.data(panels, TEXTS.__getitem__)
    assert found["texts"] == [
        ["#", 0, 0],
        [" 7", 0, 0],
        ["\u21b5", 0, 1],
        ["EOT", 1, 0],
        ["\u2423", 0, 0],
    ]
    ((panel),) = found["panels"]
    assert (panel["name"], panel["question"], panel["reference"]) == ("1", "How many?", None)
    decode = {
        "tokens": [0, 1, 2, 3, 4],
        "committed_at": [1, 3, 1, 1, 3],
        "confidence": [1.0, 0.75, 0.4, 0.9, 0.9],
        "reason": [RULE, LIMIT, MINIMUM, RULE, LIMIT],
        "tail": 2,
        "nfe": 4,
    }
    assert panel["replays"] == [
        decode | {"title": "student, confidence:0.9", "correct": True},
        decode | {"title": None, "correct": None},
    ]


def test_every_reason_has_its_tooltip_at_its_number() -> None:
    assert [fact["name"] for fact in chips.FACTS["reasons"]] == [reason.name for reason in Reason]
    assert [int(reason) for reason in Reason] == list(range(len(Reason)))


def test_from_a_row_of_a_trajectory() -> None:
    trajectory = Trajectory(
        tokens=np.array([[1, 2], [3, 4]]),
        committed_at=np.array([[1, 2], [1, 0]]),
        confidence=np.array([[0.5, 0.5], [0.25, 0.0]]),
        reason=np.array([[1, 1], [2, 0]]),
        nfe=np.array([2, 1]),
        length=np.array([2, 1]),
    )
    found = Replay.of(trajectory, 1, title="t", correct=False)
    assert vars(found) == {
        "title": "t",
        "tokens": [3, 4],
        "committed_at": [1, 0],
        "confidence": [0.25, 0.0],
        "reason": [MINIMUM, TAIL],
        "nfe": 1,
        "first_tokens": None,
        "edited_at": None,
        "correct": False,
    }


def test_says_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="got 7 tokens, 6 committed_at, 7 confidence, 7 reason"):
        dataclasses.replace(REPLAY, committed_at=[1] * 6)
    with pytest.raises(ValueError, match="between 0 and nfe=4, got 1 to 5"):
        dataclasses.replace(REPLAY, committed_at=[1, 2, 3, 4, 5, 1, 1])
    with pytest.raises(ValueError, match="finite"):
        dataclasses.replace(REPLAY, confidence=[float("nan")] * 7)
    with pytest.raises(ValueError, match="9 is no reason"):
        dataclasses.replace(REPLAY, reason=[9] * 7)
