"""The flag of commands that take one model."""

from __future__ import annotations

from absl import flags

CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "Model folder: exported by training, or a Hugging Face one; the bundled teacher by default.",
)
