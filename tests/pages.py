"""Pages as a browser reads them, and what holds of every page."""

from __future__ import annotations

import base64
import hashlib
import html
import html.parser
import json
import re
from typing import Any

# Text of a model or a data set that would like to be more.
EVIL = "</script><script>alert('x')</script>"


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page, and errors of nesting."""

    VOID = frozenset({"meta", "link", "img", "source", "input", "br", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def having(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.tags if name in attributes]


def replays(text: str) -> dict[str, Any]:
    """What a page of decodes embeds for its script."""
    (found,) = re.findall(r'<template id="replays">(.*?)</template>', text, re.DOTALL)
    decoded: dict[str, Any] = json.loads(html.unescape(found))
    return decoded


def loaded(text: str) -> list[str | None]:
    """What the page loads; asserts that it lies within the page."""
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    page = Page(text)
    found = [a[k] for k in ("src", "srcset", "href") for a in page.having(k)]
    assert all(value is not None and value.startswith("data:") for value in found)
    return found


def only_our_script_may_run(text: str) -> None:
    assert text.count("<script") == text.count("</script") == 1
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert "alert(" not in script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src "
    assert f"{policy}'sha256-{digest}'" in text
