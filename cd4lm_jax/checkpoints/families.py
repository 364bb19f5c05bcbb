"""The families of published checkpoints that this port computes, and how they are recognised."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any

from cd4lm_jax.checkpoints.family import Family, HuggingFaceError
from cd4lm_jax.checkpoints.family_llada import LLADA
from cd4lm_jax.checkpoints.family_llama import A2D, DREAM, FAST_DLLM, LLAMA, QWEN2, QWEN3, SDAR
from cd4lm_jax.checkpoints.family_moe import LLADA2, LLADA_MOE
from cd4lm_jax.models.config import ModelConfig

__all__ = ["DREAM", "FAMILIES", "LLADA", "family_for", "family_of"]

FAMILIES = (LLADA, DREAM, LLAMA, QWEN2, QWEN3, SDAR, FAST_DLLM, *A2D, LLADA2, LLADA_MOE)
"""Where several compute an architecture, the first is written."""

_SUPPORTED = ", ".join(f"{family.model_types[0]!r} ({family.title})" for family in FAMILIES)


def family_of(data: Mapping[str, Any], where: str) -> Family:
    """The family that a `config.json` names.

    Raises:
        HuggingFaceError: none of ours.
        KeyError: it names none.
    """
    kind = data["model_type"]
    family = next((family for family in FAMILIES if kind in family.model_types), None)
    if family is LLADA and "d_model" not in data and "hidden_size" in data:
        return LLADA_MOE  # which shares its model_type with LLaDA-8B
    if family is None:
        raise HuggingFaceError(f"{where}: model_type is {kind!r}; expected one of {_SUPPORTED}")
    return family


def family_for(config: ModelConfig) -> Family:
    """The family whose published code computes this architecture.

    Raises:
        HuggingFaceError: there is none.
    """
    for family in FAMILIES:
        if family.computes(config):
            return family
    changed = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != field.default and field.default is not MISSING
    }
    raise HuggingFaceError(
        f"no published code computes an architecture with {changed}, so it cannot be exported; "
        f"the families are {_SUPPORTED}"
    )
