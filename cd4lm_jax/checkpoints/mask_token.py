"""The mask token in the files of a tokenizer: found, or added to those of an autoregressive model.

Models that were converted from autoregressive ones often carry it only there, and not in
`config.json`.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from cd4lm_jax.runtime import files

MASK_TOKEN = "<|mask|>"
"""What a mask token that is added is called (as in Dream and dllm's models)."""

_DEFINITION, _SETTINGS = "tokenizer.json", "tokenizer_config.json"
_ADDED = "added_tokens.json"


def in_tokenizer(folder: str | os.PathLike[str]) -> int | None:
    """The id of the tokenizer's mask token; None where it names none, or is not there."""
    path = pathlib.Path(folder)
    settings = _read(path / _SETTINGS)
    name = settings.get("mask_token")
    name = name.get("content") if isinstance(name, dict) else name
    if not isinstance(name, str):
        return None
    return dict(_added(path, settings)).get(name)


def id_for(folder: str | os.PathLike[str]) -> int | None:
    """The id that `MASK_TOKEN` has in a tokenizer, or the first that no token has.

    None where the folder has no tokenizer.
    """
    path = pathlib.Path(folder)
    added = dict(_added(path, _read(path / _SETTINGS)))
    model = _read(path / _DEFINITION).get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else _read(path / "vocab.json")
    known = added | (vocabulary if isinstance(vocabulary, dict) else {})
    numbers = [number for number in known.values() if type(number) is int]
    return known.get(MASK_TOKEN, max(numbers) + 1) if numbers else None


def add(folder: str | os.PathLike[str], mask_id: int) -> None:
    """Adds `MASK_TOKEN` under this id to the tokenizer in a folder, if it has one.

    A tokenizer that knows the token already only says from now on that it is the mask.
    """
    path = pathlib.Path(folder)
    definition, settings = _read(path / _DEFINITION), _read(path / _SETTINGS)
    if not definition and not (path / "vocab.json").is_file():
        return
    if MASK_TOKEN not in dict(_added(path, settings)):
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        token = {"content": MASK_TOKEN, "special": True} | flags
        if definition:
            definition["added_tokens"] = [
                *definition.get("added_tokens", []),
                {"id": mask_id} | token,
            ]
            _write(path / _DEFINITION, definition)
        else:
            _write(path / _ADDED, _read(path / _ADDED) | {MASK_TOKEN: mask_id})
        if isinstance(settings.get("added_tokens_decoder"), dict):
            settings["added_tokens_decoder"][str(mask_id)] = token
    _write(path / _SETTINGS, settings | {"mask_token": MASK_TOKEN})


def _added(path: pathlib.Path, settings: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The added tokens of a tokenizer and their ids, in each of the places that have them."""
    listed = settings.get("added_tokens_decoder")
    for number, token in (listed if isinstance(listed, dict) else {}).items():
        if isinstance(token, dict) and str(number).isdecimal():
            yield str(token.get("content")), int(number)
    listed = _read(path / _DEFINITION).get("added_tokens")
    for token in listed if isinstance(listed, list) else []:
        if isinstance(token, dict) and type(token.get("id")) is int:
            yield str(token.get("content")), token["id"]
    for content, number in _read(path / _ADDED).items():
        if type(number) is int:
            yield content, number


def _read(file: pathlib.Path) -> dict[str, Any]:
    """A JSON object, empty where there is none; damage is reported by the tokenizer's reader."""
    try:
        data = json.loads(files.read_text(file))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _write(file: pathlib.Path, data: dict[str, Any]) -> None:
    files.write_text(file, json.dumps(data, indent=2, ensure_ascii=False) + "\n")
