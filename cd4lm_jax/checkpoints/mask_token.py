"""The mask token of a folder whose `config.json` does not name it: its tokenizer does.

Models that were converted from autoregressive ones often carry it only there.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from cd4lm_jax.runtime import files


def in_tokenizer(folder: str | os.PathLike[str]) -> int | None:
    """The id of the tokenizer's mask token; None where it names none, or is not there."""
    path = pathlib.Path(folder)
    settings = _read(path / "tokenizer_config.json")
    name = settings.get("mask_token")
    name = name.get("content") if isinstance(name, dict) else name
    if not isinstance(name, str):
        return None
    known = dict(_added(path, settings))
    return known.get(name)


def _added(path: pathlib.Path, settings: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The added tokens of a tokenizer and their ids, in each of the places that have them."""
    listed = settings.get("added_tokens_decoder")
    for number, token in (listed if isinstance(listed, dict) else {}).items():
        if isinstance(token, dict) and str(number).isdecimal():
            yield str(token.get("content")), int(number)
    listed = _read(path / "tokenizer.json").get("added_tokens")
    for token in listed if isinstance(listed, list) else []:
        if isinstance(token, dict) and type(token.get("id")) is int:
            yield str(token.get("content")), token["id"]
    for content, number in _read(path / "added_tokens.json").items():
        if type(number) is int:
            yield content, number


def _read(file: pathlib.Path) -> dict[str, Any]:
    """A JSON object, empty where there is none; damage is reported by the tokenizer's reader."""
    try:
        data = json.loads(files.read_text(file))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
