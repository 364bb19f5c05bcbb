"""Flags of what a decode compiles for, shared by the commands that decode or plan to."""

from __future__ import annotations

from absl import flags

GEN_LENGTH = flags.DEFINE_integer("gen_length", 256, "Generated positions.")
BLOCK_LENGTH = flags.DEFINE_integer("block_length", 32, "Positions decoded together.")
CACHE = flags.DEFINE_enum(
    "cache",
    "none",
    ["none", "prefix", "dual"],
    "Keys and values kept within a block: none (exact), of what is before it, or around it.",
)
