"""Chats as a person might have collected them: gsm_mini's questions as conversations."""

from __future__ import annotations

import json
import pathlib
import random
from collections.abc import Sequence
from typing import Any

from cd4lm_jax.data.gsm_mini.generate import generate

Chat = list[dict[str, str]]


def chats(count: int, seed: int = 0) -> list[Chat]:
    """Conversations of one to four questions, a third of them with a system prompt."""
    draw = random.Random(seed)
    problems = iter(generate("pretrain", 4 * count))
    found = []
    for _ in range(count):
        chat = []
        if draw.random() < 1 / 3:
            chat.append({"role": "system", "content": "Be brief."})
        for _ in range(draw.randint(1, 4)):
            problem = next(problems)
            chat.append({"role": "user", "content": problem.question})
            chat.append({"role": "assistant", "content": problem.answer})
        found.append(chat)
    return found


def write(path: pathlib.Path, rows: Sequence[Any]) -> str:
    """The rows as JSON lines; gives the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
