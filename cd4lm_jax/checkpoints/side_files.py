"""What makes a folder a whole model besides config and weights, carried over by a conversion.

Tokenizer, generation settings, chat template, modelling code, licence and model card: whatever a
folder has that is neither weights nor the description of either layout.
"""

from __future__ import annotations

import fnmatch
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

_LEFT_OUT = (
    "config.json",
    "params",
    "*.safetensors",
    "*.index.json",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.gguf",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "conversion.json",
    ".*",
    "__pycache__",
)


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the side files of a model folder, folders among them included.

    Links, which a hub's cache consists of, are copied as what they point to.
    """
    for entry in _side(source):
        if entry.is_dir():
            shutil.copytree(
                entry,
                target / entry.name,
                ignore=shutil.ignore_patterns(*_LEFT_OUT[1:]),
                dirs_exist_ok=True,
            )
        elif entry.is_file():
            shutil.copy2(entry, target / entry.name)


def missing_code(description: Mapping[str, Any], folder: pathlib.Path) -> list[str]:
    """Modelling files that a `config.json` names in `auto_map` and a folder lacks."""
    named: set[str] = set()
    for value in (description.get("auto_map") or {}).values():
        for reference in value if isinstance(value, list | tuple) else (value,):
            if isinstance(reference, str) and "--" not in reference:  # else in another repository
                named.add(f"{reference.rpartition('.')[0].replace('.', '/')}.py")
    return sorted(name for name in named if not (folder / name).is_file())


def _side(source: pathlib.Path) -> Iterator[pathlib.Path]:
    for entry in sorted(source.iterdir()):
        if not any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in _LEFT_OUT):
            yield entry
