"""Prompt files: one JSON object a line, each a text, a conversation or token ids.

    {"id": 1, "prompt": "text"}                    put in the chat template
    {"id": 2, "messages": [{"role", "content"}]}   rendered by the chat template
    {"id": 3, "prompt_ids": [1, 2, 3]}             taken as they are

`id` may be left out. `given_ids` fixes positions of the generation, for infilling: a token id where
it is fixed, null where it is to be decoded.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from cd4lm_jax.data.conversations import Message, RowError, messages
from cd4lm_jax.data.row_files import SourceError, read_records
from cd4lm_jax.runtime.json_files import JsonFileError, kind

Prompt = str | list[Message] | list[int]
"""A question, a conversation, or token ids."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptRecord:
    """A line of a prompt file.

    Attributes:
        id: as given, or the number of the line among the prompts, from 0.
        prompt: what is asked.
        given_ids: of the generation from its first position, None where it is to be decoded.
    """

    id: Any
    prompt: Prompt
    given_ids: list[int | None] = dataclasses.field(default_factory=list)


def read_prompts(path: str | os.PathLike[str]) -> list[PromptRecord]:
    """The lines of a prompt file.

    Raises:
        SourceError: an unreadable or empty file, or a line that is no prompt; file and line are
            named.
    """
    prompts: list[PromptRecord] = []
    for record in read_records(path):
        try:
            prompts.append(_prompt(record.get(), len(prompts)))
        except JsonFileError as error:
            raise SourceError(str(error)) from error
        except RowError as error:
            raise SourceError(f"{record.where}: {error}") from error
    if not prompts:
        raise SourceError(f'{path} holds no prompts; give lines like {{"id": 1, "prompt": "..."}}')
    return prompts


def _prompt(row: Any, number: int) -> PromptRecord:
    if not isinstance(row, dict):
        raise _wrong(row)
    given = row.get("given_ids") or []
    if not isinstance(given, list) or not all(token is None or _is_id(token) for token in given):
        raise RowError(f"given_ids is {_short(given)}; expected token ids and nulls")
    return PromptRecord(id=row.get("id", number), prompt=_asked(row), given_ids=given)


def _asked(row: dict[str, Any]) -> Prompt:
    if "prompt_ids" in row:
        ids = row["prompt_ids"]
        if not isinstance(ids, list) or not all(map(_is_id, ids)):
            raise _wrong(row)
        return list(ids)
    for field in ("messages", "conversations", "prompt"):
        if field in row and (field != "prompt" or isinstance(row[field], list)):
            return _conversation(row[field], field)
    if not isinstance(row.get("prompt"), str):
        raise _wrong(row)
    return str(row["prompt"])


def _conversation(value: Any, field: str) -> list[Message]:
    found = messages(value, field)
    if found[-1]["role"] == "assistant":
        raise RowError(f'"{field}" ends with the assistant; expected a turn to answer at the end')
    return found


def _wrong(row: Any) -> RowError:
    return RowError(
        'expected an object with "prompt", a text, "messages", a conversation, or "prompt_ids", a '
        f"list of token ids, got {_short(row) if isinstance(row, dict) else kind(row)}"
    )


def _short(value: Any) -> str:
    return json.dumps(value)[:60]


def _is_id(token: Any) -> bool:
    return type(token) is int
