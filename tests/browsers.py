"""A real browser for the tests of pages, and pages in it that may neither load nor complain."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
NEEDED = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
"""Marks of a module whose tests need a browser."""

QUIET = ["disable-background-networking", "disable-component-update", "disable-sync"]
FLAGS = [*QUIET, "disable-gpu", "disable-quic", "no-first-run"]


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="the package playwright is absent")
    root = ["no-sandbox"] if os.geteuid() == 0 else []  # chromium has no sandbox for root
    with api.sync_playwright() as driver:
        yield driver.chromium.launch(
            executable_path=CHROMIUM, args=[f"--{flag}" for flag in FLAGS + root]
        )


@contextlib.contextmanager
def opened(page: Page, path: pathlib.Path) -> Iterator[Page]:
    """The page of a file; fails where it asked the network for something or complained."""
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri())
    yield page
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert complaints == []
