"""The page that a server shows: the renderer of replays, fed by a stream instead of a file."""

from __future__ import annotations

import dataclasses
import json
import pathlib

from cd4lm_jax.replay import chips, page
from cd4lm_jax.serving.settings import Offer

_FOLDER = pathlib.Path(__file__).parent
POLICY = "frame-ancestors 'none'"
"""Of the header; the page's own policy, which allows nothing from elsewhere, stands in it."""


def render(name: str, offer: Offer) -> tuple[str, str]:
    """The page as HTML, and the policy to send with it.

    Args:
        name: of the model.
        offer: what requests may ask for.
    """
    rule = offer.base.rule
    server = {
        "facts": chips.FACTS,
        "model": name,
        "gen_length": offer.base.gen_length,
        "threshold": getattr(rule, "threshold", None),
        # A confidence or a margin is a share; a negative entropy has no such scale.
        "slider": 0.0 <= getattr(rule, "threshold", -1.0) <= 1.0,
        "baseline": one_token_a_pass(offer),
    }
    html = page.render(
        title=f"Ask {name}",
        template=_FOLDER / "serve.html.j2",
        style=(_FOLDER / "serve.css").read_text(encoding="utf-8"),
        script=(_FOLDER / "serve.js").read_text(encoding="utf-8"),
        server=json.dumps(server),
        gen_length=offer.base.gen_length,
    )
    return html, POLICY


def one_token_a_pass(offer: Offer) -> str | None:
    """A rule that commits one token a pass, in the lane of the server's own where it can."""
    for name, rule in reversed(offer.rules.items()):
        fields = {field.name for field in dataclasses.fields(rule)}
        if "max_tokens" in fields:
            return f"{name}(max_tokens=1,min_tokens=1)"
        if name == "fixed":
            return "fixed(steps=0)"
    return None
