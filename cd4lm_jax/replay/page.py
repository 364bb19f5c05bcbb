"""A self-contained page that replays decodes; the report of a run is built on it.

The page loads nothing: style and script are inside it, and its own policy forbids the browser to
fetch or to run anything else. Text of models and data sets is escaped by the templates and never
part of the script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import pathlib
from collections.abc import Iterable
from typing import Any

from cd4lm_jax.replay import boards

TEMPLATES = pathlib.Path(__file__).parent / "templates"


def render(
    replays: Iterable[boards.Replay],
    *,
    title: str,
    template: pathlib.Path = TEMPLATES / "page.html.j2",
    style: str = "",
    script: str = "",
    **context: Any,
) -> str:
    """The page as HTML.

    Args:
      replays: decodes to show pass by pass, those of one problem beside each other.
      title: of the page.
      template: a page that extends page.html.j2.
      style: CSS of that page.
      script: JavaScript of that page, run after that of the replays.
      context: what that page shows besides.
    """
    import jinja2  # not on bare accelerator images, which decode all the same

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "replay.js").read_text(encoding="utf-8") + script
    return environment.get_template(template.name).render(
        title=title,
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8") + style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        problems=boards.problems(replays),
        colour_floor=boards.COLOUR_FLOOR,
        **context,
    )


def frame(page: str, *, height: int = 680) -> str:
    """A page inside another, as notebooks show it: neither's style or script reaches the other.

    Args:
      page: what :func:`render` gave.
      height: in CSS pixels; a longer page scrolls, and the lower edge can be dragged.
    """
    style = f"width: 100%; height: {height}px; border: 0; resize: vertical"
    source = html.escape(page)
    return f'<div><iframe sandbox="allow-scripts" style="{style}" srcdoc="{source}"></iframe></div>'
