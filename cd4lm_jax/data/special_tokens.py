"""What families of models call their special tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """The special tokens of a family.

    Attributes:
        family: whose they are.
        bos: begins a text; None in families that have no such token.
        eos: ends a text, and pads.
        mask: stands for what is not yet known.
        headers: the marks around the name of who speaks.
        eot: ends a turn.
    """

    family: str
    bos: str | None
    eos: str
    mask: str
    headers: tuple[str, ...]
    eot: str

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        bos = () if self.bos is None else (self.bos,)
        return (*bos, self.eos, self.mask, *self.headers, self.eot)


LLADA = SpecialTokens(
    family="LLaDA",
    bos="<|startoftext|>",
    eos="<|endoftext|>",
    mask="<|mdm_mask|>",
    headers=("<|start_header_id|>", "<|end_header_id|>"),
    eot="<|eot_id|>",
)
DREAM = SpecialTokens(
    family="Dream",
    bos="<|beginoftext|>",
    eos="<|endoftext|>",
    mask="<|mask|>",
    headers=("<|im_start|>",),
    eot="<|im_end|>",
)
FAMILIES = (LLADA, DREAM)


def family_of(token_id: Callable[[str], int | None]) -> SpecialTokens:
    """The family whose mask token a vocabulary has; LLaDA where it has none.

    Args:
        token_id: the id of a token's text, None where there is none.
    """
    return next((family for family in FAMILIES if token_id(family.mask) is not None), LLADA)
