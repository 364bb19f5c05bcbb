"""The flag of commands that write one thing."""

from __future__ import annotations

from absl import flags

OUTPUT = flags.DEFINE_string(
    "output", None, "What to write: `cd4lm decode` a JSONL file, `cd4lm frontier` a folder."
)
