"""The files of a tokenizer folder in the forms that are published.

    tokenizer.json          the tokenizer; or vocab.json and merges.txt, as Qwen has it
    tokenizer_config.json   settings, and in most folders the chat template: a text, or a list of
                            named ones, of which `default` is taken
    chat_template.jinja     the chat template of newer folders; it goes before the settings
    added_tokens.json       special tokens that are in neither of the above

Any of them may begin with a byte-order mark.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from cd4lm_jax.runtime.json_files import JsonFileError, parse, read_text

_DEFINITION, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_VOCABULARY, _MERGES = "vocab.json", "merges.txt"
_ADDED, _TEMPLATE = "added_tokens.json", "chat_template.jinja"

# How Qwen's tokenizers divide a text into words; of folders that have no tokenizer.json.
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class TokenizerError(ValueError):
    """A tokenizer folder that cannot be used."""


def lie_in(folder: Path) -> bool:
    """Whether a folder holds the files of a tokenizer."""
    return any((folder / name).is_file() for name in (_DEFINITION, _VOCABULARY))


def read(folder: Path) -> tuple[str, dict[str, Any]]:
    """The text of `tokenizer.json` and the settings, whatever the form of the folder.

    Returns:
        Both as `Tokenizer` takes them: special tokens are in the first, and `chat_template` of the
        second is a text where there is one.

    Raises:
        TokenizerError: a file is missing or damaged.
    """
    in_parts = lie_in(folder) and not (folder / _DEFINITION).is_file()
    definition = "" if in_parts else _text(folder, _DEFINITION)
    config = _object(folder, _CONFIG)
    if (folder / _TEMPLATE).is_file():
        config["chat_template"] = _text(folder, _TEMPLATE)
    elif isinstance(config.get("chat_template"), list):
        config["chat_template"] = _default_template(folder, config["chat_template"])
    added = _added_tokens(folder, config)
    if in_parts:
        return _qwen(folder, added), config
    return _with_added(definition, folder, added), config


def token_texts(config: dict[str, Any]) -> dict[str, str]:
    """The special tokens that settings name, such as `pad_token`: their texts."""
    found = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found


def byte_level(model: models.BPE, words: str) -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer that merges within the words that a pattern finds."""
    encoder = tokenizers.Tokenizer(model)
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    encoder.decoder = decoders.ByteLevel()
    return encoder


def _text(folder: Path, name: str) -> str:
    try:
        return read_text(folder / name)
    except JsonFileError as error:
        raise TokenizerError(
            f"cannot read {name} in {folder}: expected a Hugging Face tokenizer folder ({error})"
        ) from error


def _object(folder: Path, name: str) -> dict[str, Any]:
    text = _text(folder, name)
    try:
        value = parse(text, str(folder / name))
    except JsonFileError as error:
        raise TokenizerError(str(error)) from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{folder / name}: expected a JSON object")
    return value


def _default_template(folder: Path, named: list[Any]) -> str:
    """The template of a list of named ones that a chat without tools takes."""
    templates = {
        entry["name"]: entry["template"]
        for entry in named
        if isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("template"), str)
    }
    if len(templates) == 1:
        return next(iter(templates.values()))
    if "default" not in templates:
        raise TokenizerError(
            f"{folder / _CONFIG}: chat_template is a list of named templates without a default "
            f"(found {', '.join(templates) or 'none'}); name one of them default"
        )
    return templates["default"]


def _added_tokens(folder: Path, config: dict[str, Any]) -> dict[int, AddedToken]:
    """The tokens that the settings or `added_tokens.json` add to the vocabulary, by id."""
    found: dict[int, AddedToken] = {}
    if (folder / _ADDED).is_file():
        for text, token in _object(folder, _ADDED).items():
            if isinstance(token, bool) or not isinstance(token, int):
                raise TokenizerError(f"{folder / _ADDED}: the id of {text} is {token!r}")
            found[token] = AddedToken(text, special=True, normalized=False)
    listed = config.get("added_tokens_decoder") or {}
    try:
        for token, entry in listed.items():
            special = bool(entry.get("special", True))
            found[int(token)] = AddedToken(entry["content"], special=special)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TokenizerError(
            f"{folder / _CONFIG}: added_tokens_decoder is not a table of ids and tokens ({error!r})"
        ) from error
    return dict(sorted(found.items()))


def _with_added(definition: str, folder: Path, added: dict[int, AddedToken]) -> str:
    """A `tokenizer.json` with the tokens that only the other files name."""
    try:
        encoder = tokenizers.Tokenizer.from_str(definition)
    except Exception:  # the Rust side raises bare Exception; Tokenizer says what is wrong
        return definition
    missing = {t: token for t, token in added.items() if encoder.token_to_id(token.content) is None}
    if not missing:
        return definition
    _add(encoder, missing, folder)
    return str(encoder.to_str())


def _add(encoder: tokenizers.Tokenizer, added: dict[int, AddedToken], folder: Path) -> None:
    encoder.add_tokens(list(added.values()))
    for token, entry in added.items():
        if (place := encoder.token_to_id(entry.content)) != token:
            raise TokenizerError(
                f"{folder} gives {entry.content} the id {token}, the vocabulary {place}; fetch the "
                "files again"
            )


def _qwen(folder: Path, added: dict[int, AddedToken]) -> str:
    """The text of the `tokenizer.json` that a folder in Qwen's form does without."""
    try:
        lines = read_text(folder / _MERGES).split("\n")
        pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        merges = [(first, second) for first, second in pairs]
        encoder = byte_level(models.BPE(_object(folder, _VOCABULARY), merges), _QWEN_WORDS)
    except TokenizerError:
        raise
    except Exception as error:  # the Rust side raises bare Exception
        raise TokenizerError(
            f"cannot read {_VOCABULARY} and {_MERGES} in {folder}: {error}"
        ) from error
    encoder.normalizer = normalizers.NFC()
    _add(encoder, added, folder)
    return str(encoder.to_str())
