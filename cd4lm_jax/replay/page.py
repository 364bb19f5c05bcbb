"""A self-contained page that replays decodes; the report of an evaluation is built on it.

The page loads nothing: style and script are inside it, and its own policy forbids the browser to
fetch or to run anything else. Decodes are data in the page (JSON in a `template` element, escaped
like any text), from which replay.js draws chips: text of models and data sets is never markup and
never part of the script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.replay import chips
from cd4lm_jax.replay.replays import Panel, Replay

TEMPLATES = pathlib.Path(__file__).parent / "templates"


def of(
    trajectory: Trajectory,
    text: Callable[[int], str] | None = None,
    *,
    prompts: Sequence[str] | None = None,
    title: str = "What was decoded when",
) -> str:
    """A page that replays every row of a trajectory pass by pass.

    Args:
        trajectory: N rows.
        text: of a token id; ids are shown as numbers when None.
        prompts: the text of every prompt; none is shown when None.
        title: of the page.

    Raises:
        ValueError: not one prompt a row.
    """
    if prompts is not None and len(prompts) != len(trajectory):
        raise ValueError(
            f"got {len(prompts)} prompts for {len(trajectory)} decodes, expected one each"
        )
    panels = [
        Panel(
            name=str(row + 1),
            replays=[Replay.of(trajectory, row)],
            question=None if prompts is None else prompts[row],
        )
        for row in range(len(trajectory))
    ]
    return render(panels, text=text or str, title=title)


def render(
    panels: Sequence[Panel] = (),
    *,
    title: str,
    text: Callable[[int], str] = str,
    template: pathlib.Path = TEMPLATES / "page.html.j2",
    style: str = "",
    script: str = "",
    **context: Any,
) -> str:
    """A page as HTML.

    Args:
        panels: decodes to replay, those of one prompt beside each other.
        title: of the page.
        text: of a token id.
        template: a page that extends page.html.j2.
        style: CSS of that page.
        script: JavaScript of that page, run after replay.js.
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
        replays=json.dumps(data(panels, text), allow_nan=False) if panels else None,
        **context,
    )


def data(panels: Sequence[Panel], text: Callable[[int], str]) -> dict[str, Any]:
    """Panels as replay.js draws them.

    Returns:
        `facts` (see `chips.FACTS`), `texts` (see `chips.TextTable`) and `panels`, each with name,
        question, reference and its `replays`.
    """
    table = chips.TextTable(text)
    shown = [
        {
            "name": panel.name,
            "question": panel.question,
            "reference": panel.reference,
            "replays": [
                table.encode(replay) | {"title": replay.title, "correct": replay.correct}
                for replay in panel.replays
            ],
        }
        for panel in panels
    ]
    return {"facts": chips.FACTS, "texts": table.as_json(), "panels": shown}


def frame(page: str, *, height: int = 680) -> str:
    """A page inside another, as notebooks show it: neither's style or script reaches the other.

    Args:
        page: what `render` gave.
        height: in CSS pixels; a longer page scrolls, and the lower edge can be dragged.
    """
    style = f"width: 100%; height: {height}px; border: 0; resize: vertical"
    source = html.escape(page)
    return f'<div><iframe sandbox="allow-scripts" style="{style}" srcdoc="{source}"></iframe></div>'
