from __future__ import annotations

import numpy as np
import pytest

from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.replay import page
from tests import pages
from tests.pages import EVIL, Page

TRAJECTORY = Trajectory(
    tokens=np.array([[11, 12, 13, 14, 15], [21, 22, 23, 24, 25]]),
    committed_at=np.array([[1, 2, 2, 0, 0], [1, 0, 3, 0, 2]]),
    confidence=np.array([[0.9, 0.8, 0.7, 0, 0], [0.6, 0, 0.5, 0, 0.4]]),
    reason=np.array(
        [
            [Reason.RULE, Reason.MINIMUM, Reason.LIMIT, Reason.TAIL, Reason.TAIL],
            [Reason.RULE, Reason.GIVEN, Reason.RULE, Reason.TAIL, Reason.RULE],
        ]
    ),
    nfe=np.array([2, 3]),
    length=np.array([2, 5]),
)


def chips(page: Page) -> list[dict[str, str | None]]:
    return page.having("data-due")


def test_one_self_contained_page_of_all_rows() -> None:
    text = TRAJECTORY.to_html(title="A title")
    page = Page(text)
    assert page.open == []
    assert pages.loaded(text) == ["data:,"]  # the empty icon
    pages.only_our_script_may_run(text)
    assert page.text.count("A title") == 2
    assert [a["max"] for tag, a in page.tags if tag == "input"] == ["2", "3"]


def test_without_text_ids_are_shown_and_what_is_not_known_is_left_out() -> None:
    text = TRAJECTORY.to_html()
    page = Page(text)
    for token in ("11", "12", "13", "21", "22", "23", "24", "25"):
        assert token in page.text
    assert "14" not in page.text  # of the tail
    assert "After the end, filled without a pass: <b>2</b>." in text
    for name in ("question", "reference", "verdict"):
        assert name not in [a.get("class") for _, a in page.tags]
    assert "None" not in "".join(page.text)


def test_every_token_says_when_and_why() -> None:
    page = Page(TRAJECTORY.to_html())
    assert [a["title"] for a in chips(page)] == [
        "position 1: committed in pass 1 of 2 by the rule, confidence 0.900",
        "position 2: committed in pass 2 of 2 to keep the least number a pass, confidence 0.800",
        "position 3: committed in pass 2 of 2 because its block's or row's passes were used up, "
        "confidence 0.700",
        "position 1: committed in pass 1 of 3 by the rule, confidence 0.600",
        "position 2: given from the start",
        "position 3: committed in pass 3 of 3 by the rule, confidence 0.500",
        "position 4: filled after the end, not decoded",
        "position 5: committed in pass 2 of 3 by the rule, confidence 0.400",
    ]


def test_given_positions_are_there_before_the_first_pass_and_unlike_the_tail() -> None:
    text = TRAJECTORY.to_html()
    second = chips(Page(text))[3:]
    assert [a["class"] for a in second] == ["t", "t given", "t", "t undecoded", "t"]
    assert [a["data-due"] for a in second] == ["1", "0", "3", "3", "2"]
    assert text.count("given from the start: underlined") == 1


def test_texts_of_tokens_prompts_and_title_are_text_and_never_markup() -> None:
    text = TRAJECTORY.to_html(
        lambda token: EVIL if token == 12 else '" onload="x',
        prompts=[f"one {EVIL}", "two <b>bold</b>"],
        title=EVIL,
    )
    page = Page(text)
    assert page.open == []
    pages.only_our_script_may_run(text)
    assert page.having("onload") == []
    assert page.text.count(EVIL) == 3  # a token, the title and the heading
    for shown in (f"one {EVIL}", "two <b>bold</b>", '" onload="x'):
        assert shown in page.text


def test_no_row_is_a_page_without_replays() -> None:
    page = Page(TRAJECTORY.rows([]).to_html())
    assert page.open == []
    assert "Pass by pass" not in page.text


def test_says_that_prompts_do_not_fit() -> None:
    with pytest.raises(ValueError, match="got 1 prompts for 2 problems, expected one each"):
        TRAJECTORY.to_html(prompts=["one"])


def test_a_frame_holds_the_page_and_keeps_it_in() -> None:
    text = TRAJECTORY.to_html(prompts=[EVIL, "He said \"'no' & left\""])
    frame = Page(page.frame(text, height=300))
    ((_, attributes),) = (tag for tag in frame.tags if tag[0] == "iframe")
    assert attributes["srcdoc"] == text
    assert attributes["sandbox"] == "allow-scripts"  # no reach into the notebook around it
    assert "height: 300px" in str(attributes["style"])
    assert frame.open == frame.text == []
