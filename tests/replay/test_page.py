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


def test_one_self_contained_page_of_all_rows() -> None:
    text = page.of(TRAJECTORY, title="A title")
    parsed = Page(text)
    assert parsed.open == []
    assert pages.loaded(text) == ["data:,"]  # the empty icon
    pages.only_our_script_may_run(text)
    assert parsed.text.count("A title") == 2
    assert [panel["name"] for panel in pages.replays(text)["panels"]] == ["1", "2"]


def test_without_text_ids_are_shown_and_what_is_not_known_is_left_out() -> None:
    found = pages.replays(page.of(TRAJECTORY))
    labels = [label for label, *_ in found["texts"]]
    assert labels == ["11", "12", "13", "21", "22", "23", "24", "25"]  # 14 and 15 are the tail
    assert [panel["replays"][0]["tail"] for panel in found["panels"]] == [2, 0]
    for panel in found["panels"]:
        assert panel["question"] is panel["reference"] is panel["replays"][0]["title"] is None


def test_texts_of_tokens_prompts_and_title_are_text_and_never_markup() -> None:
    text = page.of(
        TRAJECTORY,
        lambda token: EVIL if token == 12 else '" onload="x',
        prompts=[f"one {EVIL}", "two <b>bold</b> \ud800 </template><p hidden>"],
        title=EVIL,
    )
    parsed = Page(text)
    assert parsed.open == []
    pages.only_our_script_may_run(text)
    assert parsed.having("onload") == parsed.having("hidden") == []
    assert parsed.text.count(EVIL) == 2  # the title and the heading
    found = pages.replays(text)
    assert [panel["question"] for panel in found["panels"]] == [
        f"one {EVIL}",
        "two <b>bold</b> \ud800 </template><p hidden>",
    ]
    assert {label for label, *_ in found["texts"]} == {EVIL, '" onload="x'}


def test_no_row_is_a_page_without_replays() -> None:
    parsed = Page(page.of(TRAJECTORY.rows([])))
    assert parsed.open == []
    assert "Pass by pass" not in parsed.text


def test_says_that_prompts_do_not_fit() -> None:
    with pytest.raises(ValueError, match="got 1 prompts for 2 decodes, expected one each"):
        page.of(TRAJECTORY, prompts=["one"])


def test_a_frame_holds_the_page_and_keeps_it_in() -> None:
    text = page.of(TRAJECTORY, prompts=[EVIL, "He said \"'no' & left\""])
    frame = Page(page.frame(text, height=300))
    ((_, attributes),) = (tag for tag in frame.tags if tag[0] == "iframe")
    assert attributes["srcdoc"] == text
    assert attributes["sandbox"] == "allow-scripts"  # no reach into the notebook around it
    assert "height: 300px" in str(attributes["style"])
    assert frame.open == frame.text == []
