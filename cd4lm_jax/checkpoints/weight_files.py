"""The files of a published folder that hold its weights: one, several with an index, or several."""

from __future__ import annotations

import json
import pathlib
import re

from cd4lm_jax.checkpoints import manifest
from cd4lm_jax.checkpoints.family import HuggingFaceError
from cd4lm_jax.checkpoints.safetensors_files import Stored, read_header
from cd4lm_jax.runtime import files

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
DIGESTS = "sha256"
"""Key of the index's metadata: SHA-256 by file name, where the folder was converted by us."""

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack")


def any_in(path: pathlib.Path) -> bool:
    """Whether a folder has weights of a published kind, readable or not."""
    patterns = ("*.safetensors", *_ADAPTERS, *_OTHER_FORMATS)
    return any(True for pattern in patterns for _ in path.glob(pattern))


def read_headers(path: pathlib.Path) -> dict[str, Stored]:
    """The tensors of a folder by name; no weights are read.

    Adapters of peft beside them are left out.

    Raises:
        HuggingFaceError: there are no weights, not all of them, or another format.
        TensorFileError: a file is damaged or cut off.
    """
    if (path / INDEX_FILE).is_file():
        return _of_index(path)
    if (path / SINGLE_FILE).is_file():
        return read_header(path / SINGLE_FILE)
    found: dict[str, Stored] = {}
    for name in _shards(path):
        header = read_header(path / name)
        if twice := found.keys() & header.keys():
            tensor = min(twice)
            raise HuggingFaceError(
                f"{path}: {tensor!r} is in {found[tensor].file.name} and in {name}; without a "
                f"{INDEX_FILE} each tensor must be in one file, remove the files of another model"
            )
        found |= header
    return found


def check_digests(path: pathlib.Path, used: set[pathlib.Path]) -> None:
    """Compares files with the SHA-256 that are known of them.

    Those are in the index of a folder that this project converted, and in the names to which the
    hub's cache links.

    Args:
        path: the folder.
        used: its files of weights.

    Raises:
        DamagedFileError: a file has changed.
    """
    known: dict[str, str] = {}
    for file in used:
        if file.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", name := file.resolve().name):
            known[file.name] = name
    listed = _index(path)[1] if (path / INDEX_FILE).is_file() else {}
    manifest.compare(path, known | listed, INDEX_FILE if listed else "the hub's cache")


def _shards(path: pathlib.Path) -> list[str]:
    """The safetensors files of a folder without an index, all shards of a set or all there are."""
    names = sorted(file.name for file in path.glob("*.safetensors") if file.name not in _ADAPTERS)
    if not names:
        others = sorted(file.name for each in _OTHER_FORMATS for file in path.glob(each))
        if others:
            raise HuggingFaceError(
                f"{path} has weights in another format alone ({others[0]}); fetch the safetensors "
                "files of the model, or convert it (transformers: from_pretrained, then "
                "save_pretrained)"
            )
        raise HuggingFaceError(
            f"no weights in {path}: there is no safetensors file; fetch {SINGLE_FILE}, or the "
            f"model-*.safetensors and {INDEX_FILE}"
        )
    for match in filter(None, map(_SHARD.fullmatch, names)):
        for number in range(1, int(match["count"]) + 1):
            expected = f"{match['stem']}-{number:05}-of-{match['count']}.safetensors"
            if expected not in names:
                raise HuggingFaceError(
                    f"{path / expected} is missing, {match[0]} is one of {int(match['count'])}; "
                    "fetch it"
                )
    return names


def _of_index(path: pathlib.Path) -> dict[str, Stored]:
    listed, _ = _index(path)
    found: dict[str, Stored] = {}
    for name in sorted(set(listed.values())):
        if not (path / name).is_file():
            raise HuggingFaceError(f"{path / name} is missing, {INDEX_FILE} lists it; fetch it")
        found |= read_header(path / name)
    for name, file in listed.items():
        if name not in found or found[name].file.name != file:
            raise HuggingFaceError(f"{path / file} has no {name!r}, {INDEX_FILE} says so; fetch it")
    return found


def _index(path: pathlib.Path) -> tuple[dict[str, str], dict[str, str]]:
    """File by tensor, and SHA-256 by file where the index has them."""
    index = path / INDEX_FILE
    try:
        data = json.loads(files.read_text(index))
        listed = dict(data["weight_map"])
        known = dict((data.get("metadata") or {}).get(DIGESTS) or {})
        sound = all(map(_is_name, listed.values())) and all(map(_is_name, known))
        sound = sound and manifest.valid(known)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise HuggingFaceError(f"{index} is damaged or no index; fetch it again") from None
    return listed, known


def _is_name(name: object) -> bool:
    """Whether this is the plain name of a file in the folder itself."""
    return isinstance(name, str) and bool(name) and pathlib.PurePath(name).name == name
