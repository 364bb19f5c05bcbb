"""The flags of a decode, one for each field of `DecodeConfig`, shared by commands that take one."""

from __future__ import annotations

from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.settings import flags as derived

DECODE = derived.define(DecodeConfig, module=__name__)
