"""Token editing: committed tokens are replaced while their block is open (LLaDA2.1, 2602.08676).

A pass replaces a committed token by its own if that differs and is probable enough. A block then
ends with a pass that begins with nothing masked and edits nothing, or after so many of them.
"""

from __future__ import annotations

import jax

from cd4lm_jax.decoding.canvas import Canvas
from cd4lm_jax.decoding.program import Limits
from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.decoding.region import Region
from cd4lm_jax.decoding.sampling import Guess


def replaced(
    guess: Guess, region: Region, tokens: Region, canvas: Canvas, threshold: jax.Array | float
) -> jax.Array:
    """Which positions a pass would replace, `[batch, window]` bool.

    Args:
        guess: what the pass proposes.
        region: the window within the generation.
        tokens: the window within the canvas.
        canvas: before the pass.
        threshold: least probability of a token that replaces another; it must exceed that.
    """
    # A position of the prompt reads as pass 0, as a given one does.
    committed = region.of(canvas.committed_at) > 0
    differs = guess.token != tokens.of(canvas.tokens)
    return committed & differs & (guess.confidence > threshold)


def write(
    canvas: Canvas, edit: jax.Array, guess: Guess, region: Region, tokens: Region, nfe: jax.Array
) -> Canvas:
    """The canvas with the tokens of pass `nfe [batch]` wherever `edit [batch, window]`."""
    first = edit & (region.of(canvas.edited_at) == 0)
    return canvas._replace(
        first_tokens=region.write(canvas.first_tokens, first, tokens.of(canvas.tokens)),
        tokens=tokens.write(canvas.tokens, edit, guess.token),
        confidence=region.write(canvas.confidence, edit, guess.confidence),
        reason=region.write(canvas.reason, edit, int(Reason.EDITED)),
        edited_at=region.write(canvas.edited_at, edit, nfe[:, None]),
        edits=canvas.edits + edit.sum(axis=1),
    )


def settle(
    canvas: Canvas, busy: jax.Array, edited: jax.Array, limits: Limits
) -> tuple[Canvas, jax.Array]:
    """Counts the passes that begin with nothing masked, and says which rows' blocks may end.

    Args:
        canvas: before it is counted.
        busy: `[batch]` bool, the pass began with something masked in the active block.
        edited: `[batch]` bool, it edited something in it.
        limits: with the most passes.

    Returns:
        The canvas, and `[batch]` bool: the block ends if nothing is masked any more.
    """
    settling = canvas.settling + ~busy
    settled = (~busy & ~edited) | (settling >= limits.max_post_steps)
    return canvas._replace(settling=settling), settled
