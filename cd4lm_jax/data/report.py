"""What a run finds in its data, counted before the first update."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

_LEFT_OUT = {
    "malformed": "malformed",
    "empty_turns": "empty",
    "empty_answers": "empty in the chat template",
    "too_long": "too long",
    "repeated": "repeated",
    "in_validation": "with a prompt of the validation rows",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataReport:
    """The counts of one source; the same bytes for the same data and settings.

    Attributes:
        source: as the settings name it.
        split: likewise.
        counts: by name. `rows` of the source, `answers` in them, those that are `taken`; left out:
            `malformed` rows, `empty_turns`, `empty_answers` (the template writes nothing),
            `too_long`, `repeated`, `in_validation`; `duplicates` and `shared` with validation that
            were found, whatever became of them; `cut_answers`, `cut_prompts`; of what is taken
            `tokens`, `answer_tokens` (learned positions), `longest_prompt`, `longest_answer`; and
            `canvases` and `canvas_tokens` that they are packed into. A generated data set is not
            read through; it has `rows`, `answers` and `taken`.
    """

    source: str
    split: str
    counts: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON knows it."""
        return dataclasses.asdict(self) | {"counts": dict(self.counts)}

    def __str__(self) -> str:
        """One line for people."""
        count = self.counts.get
        parts = [f"{self.source} {self.split}: {count('taken', 0):,} answers taken"]
        if rows := count("rows"):
            parts[0] += f" of {rows:,} rows"
        left = [f"{number:,} {why}" for name, why in _LEFT_OUT.items() if (number := count(name))]
        if left:
            parts.append(f"left out: {', '.join(left)}")
        cut = [f"{count(f'cut_{what}', 0):,} {what}" for what in ("answers", "prompts")]
        if any(count(f"cut_{what}") for what in ("answers", "prompts")):
            parts.append(f"cut: {', '.join(cut)}")
        kept = count("duplicates", 0) - count("repeated", 0)
        if kept > 0:
            parts.append(f"{kept:,} duplicates kept")
        if tokens := count("tokens"):
            parts.append(f"{tokens:,} tokens, {count('answer_tokens', 0):,} of them learned")
        if room := count("canvas_tokens"):
            share = count("tokens", 0) / room
            parts.append(f"{count('canvases', 0):,} canvases, {share:.1%} full")
        return "; ".join(parts)
