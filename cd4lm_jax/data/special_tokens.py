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
# Qwen's tokenizer with a mask token added, as the models that grew out of it have it.
QWEN = dataclasses.replace(DREAM, family="Qwen", bos=None)
SDAR = dataclasses.replace(QWEN, family="SDAR", mask="<|MASK|>")
FAST_DLLM = dataclasses.replace(QWEN, family="Fast-dLLM", mask="|<MASK>|")
FAMILIES = (LLADA, DREAM, QWEN, SDAR, FAST_DLLM)


def family_of(token_id: Callable[[str], int | None]) -> SpecialTokens:
    """The family whose special tokens a vocabulary has.

    Args:
        token_id: the id of a token's text, None where there is none.

    Returns:
        The first family of which all tokens are there; else the first whose mask is, for the
        message that names the missing ones; LLaDA where there is no mask.
    """

    def has(*names: str) -> bool:
        return all(token_id(name) is not None for name in names)

    whole = (family for family in FAMILIES if has(*family.names))
    masked = (family for family in FAMILIES if has(family.mask))
    return next(whole, next(masked, LLADA))
