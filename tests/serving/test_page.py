"""The page of a server in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

import cd4lm_jax as cd
from tests import browsers
from tests.serving.servers import DECODE, Served, served, small_model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = browsers.NEEDED


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.launched() as found:
        yield found


@pytest.fixture(params=[{}, {"viewport": {"width": 390, "height": 800}, "color_scheme": "dark"}])
def page(browser: Browser, server: Served, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page; fails where it asked anybody else for something or complained."""
    complaints: list[str] = []
    asked: list[str] = []
    options: dict[str, Any] = request.param
    with browser.new_context(**options) as context:
        found = context.new_page()
        found.on("request", lambda request: asked.append(request.url))
        found.on("console", lambda message: complaints.append(message.text))
        found.on("pageerror", lambda error: complaints.append(str(error)))
        found.goto(server.url)
        yield found
    # Chromium says so of an answer that is an error, which one test asks for.
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []
    assert [url for url in asked if not url.startswith((server.url, "data:"))] == []


def test_a_question_is_answered_and_replayed(page: Page) -> None:
    alone = cd.decode(small_model(), "hello", DECODE)
    page.get_by_label("Your question").fill("hello")
    page.keyboard.press("Enter")
    page.wait_for_selector(".problem")
    assert page.locator("#answer").inner_text().strip() == alone.text[0].strip()
    assert f"{alone.nfe[0]} pass" in page.locator("#numbers").inner_text()
    committed = int((alone.trajectory.committed_at[0] > 0).sum())
    done = page.locator(".canvas .t:not(.masked):not(.undecoded)").count()
    assert done == committed
    page.get_by_label("Previous pass").click()
    assert page.locator(".canvas .t.masked").count() > 0
    width = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0


def test_settings_go_along_and_one_token_a_pass_is_beside(page: Page) -> None:
    page.get_by_label("Your question").fill("hello")
    page.get_by_label("Pass budget").fill("3")
    page.get_by_label("Threshold").fill("0.5")
    page.get_by_label("Beside it, one token a pass").check()
    page.get_by_role("button", name="Ask").click()
    page.wait_for_selector(".problem")
    rule = cd.ConfidenceAdaptive(threshold=0.5)
    adaptive = cd.decode(small_model(), "hello", DECODE, rule=rule, max_passes=3)
    slow = cd.ConfidenceAdaptive(max_tokens=1)
    baseline = cd.decode(small_model(), "hello", DECODE, rule=slow)
    counters = page.locator(".board .counter").all_inner_texts()
    assert [int(text.split()[0]) for text in counters] == [adaptive.nfe[0], baseline.nfe[0]]


def test_positions_that_are_masked_are_drawn_while_it_goes_on(page: Page) -> None:
    """The form of a decode that has not ended."""
    shown = page.evaluate(
        """() => {
          const replay = {tokens: [0, null], committed_at: [1, 0], confidence: [0.9, 0],
                          reason: [1, 0], nfe: 1};
          const board = drawBoard({facts: server.facts, texts: [["a", 0, 0]]}, replay);
          return Array.from(board.querySelectorAll(".t"), (one) => [one.className, one.title]);
        }"""
    )
    assert shown == [
        ["t", "position 1: committed in pass 1 of 1 by the rule, confidence 0.900"],
        ["t masked open", "position 2: not yet committed"],
    ]


def test_an_error_is_shown(page: Page, server: Served) -> None:
    page.get_by_label("Your question").fill("word " * 500)
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("alert").wait_for()
    assert "leave 64" in page.get_by_role("alert").inner_text()
