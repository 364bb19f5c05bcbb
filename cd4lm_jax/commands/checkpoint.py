"""The flags of commands that take one model."""

from __future__ import annotations

from absl import flags

CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "Model folder: exported by training, a Hugging Face one, or adapters of peft; the bundled "
    "teacher by default.",
)
BASE = flags.DEFINE_string(
    "base",
    None,
    "Folder of the model that peft adapters are of; the one that they name by default.",
)
