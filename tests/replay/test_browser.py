"""Pages of decodes in a real browser: what replay.js draws is compared with the decodes."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from cd4lm_jax.replay import chips, page
from cd4lm_jax.replay.replays import Panel, Replay
from tests import browsers
from tests.pages import EVIL
from tests.replay.test_chips import REPLAY, TEXTS
from tests.replay.test_page import TRAJECTORY

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = browsers.NEEDED


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.launched() as found:
        yield found


@pytest.fixture
def drawn(browser: Browser, tmp_path: pathlib.Path) -> Iterator[Any]:
    """Opens a page's text, and closes it after the test."""
    with browser.new_context() as context:
        pages = []

        def call(text: str) -> Page:
            file = tmp_path / "page.html"
            file.write_bytes(text.encode("utf-8", errors="replace"))
            opened = browsers.opened(context.new_page(), file)
            pages.append(opened)
            return opened.__enter__()

        yield call
        for opened in pages:
            opened.__exit__(None, None, None)


def attributes(page: Page, name: str) -> list[str]:
    found: list[str] = page.locator(".canvas .t").evaluate_all(
        "(all, name) => all.map(one => one.getAttribute(name))", name
    )
    return found


def test_every_token_says_when_and_why(drawn: Any) -> None:
    shown = drawn(page.of(TRAJECTORY))
    assert attributes(shown, "title") == [
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
    assert shown.locator(".tail").all_inner_texts() == [
        "After the end, filled without a pass: 2.",
    ]
    for name in ("question", "reference", "verdict", "answer"):
        assert shown.locator(f".{name}").count() == 0
    assert [box.get_attribute("max") for box in shown.locator("input").all()] == ["2", "3"]


def test_given_positions_are_there_before_the_first_pass_and_unlike_the_tail(drawn: Any) -> None:
    shown = drawn(page.of(TRAJECTORY))
    assert attributes(shown, "data-due")[3:] == ["1", "0", "3", "3", "2"]
    second = shown.locator(".problem").nth(1)
    second.get_by_label("Pass", exact=True).fill("0")
    assert attributes(shown, "class")[3:] == [
        *("t masked", "t given", "t masked", "t undecoded masked", "t masked"),
    ]
    assert second.locator(".board .faint").all_inner_texts() == [
        "1 position given from the start: underlined."
    ]


def test_the_page_and_the_terminal_show_the_same_chips(drawn: Any) -> None:
    shown = drawn(
        page.render([Panel(name="1", replays=[REPLAY])], text=TEXTS.__getitem__, title="")
    )
    expected = chips.chips(REPLAY, TEXTS.__getitem__)
    labels = shown.locator(".canvas .t").evaluate_all("all => all.map(one => one.firstChild.data)")
    assert labels == [chip.label for chip in expected]
    assert attributes(shown, "data-due") == [str(chip.due) for chip in expected]
    assert attributes(shown, "data-at") == [str(chip.committed_at) for chip in expected]
    assert attributes(shown, "style") == [f"--c:{chip.heat:.3f}" for chip in expected]
    special = ["special" in kind for kind in attributes(shown, "class")]
    assert special == [chip.special for chip in expected]
    breaks = shown.locator(".canvas").evaluate(
        "canvas => Array.from(canvas.querySelectorAll('br, wbr'), one => one.tagName)"
    )
    assert breaks == ["BR" if chip.breaks else "WBR" for chip in expected]


def test_bars_count_what_each_pass_committed(drawn: Any) -> None:
    shown = drawn(
        page.render([Panel(name="1", replays=[REPLAY])], text=TEXTS.__getitem__, title="")
    )
    assert shown.locator(".bars i").evaluate_all("all => all.map(one => one.title)") == [
        *("pass 1: 3", "pass 2: 0", "pass 3: 2", "pass 4: 0"),
    ]
    assert shown.locator(".verdict").inner_text() == "right"


def test_one_is_not_many(drawn: Any) -> None:
    """A pass, a token, a position: each in the singular where there is one."""
    one = Replay(
        tokens=[1, 2, 6],
        committed_at=[0, 1, 0],
        confidence=[0.0, 0.9, 0.0],
        reason=[4, 1, 0],
        nfe=1,
    )
    shown = drawn(page.render([Panel(name="1", replays=[one])], text=TEXTS.__getitem__, title=""))
    assert shown.locator(".counter").inner_text() == "1 pass, done, 1 token committed"
    shown.get_by_label("Previous pass").click()
    assert shown.locator(".counter").inner_text() == "0 of 1 pass, 0 tokens committed"
    assert "1 position given" in shown.locator(".board").inner_text()


def test_texts_are_text_and_never_markup(drawn: Any) -> None:
    shown = drawn(
        page.of(
            TRAJECTORY,
            lambda token: EVIL if token == 12 else "<img src=x>",
            prompts=[f"one {EVIL}", "two <b>bold</b> \ud800"],
            title=EVIL,
        )
    )
    assert shown.locator("b:has-text('bold'), img").count() == 0
    assert shown.locator(".question").all_inner_texts() == [
        f"one {EVIL}",
        "two <b>bold</b> \ud800",
    ]
    labels = shown.locator(".canvas .t").evaluate_all("all => all.map(one => one.firstChild.data)")
    assert labels[:3] == ["<img src=x>", EVIL, "<img src=x>"]


def test_without_scripts_the_page_says_what_is_missing(
    browser: Browser, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(page.of(TRAJECTORY))
    with browser.new_context(java_script_enabled=False) as context:
        shown = context.new_page()
        shown.goto(file.as_uri())
        assert "drawn by JavaScript" in shown.locator("#passes").inner_text()
