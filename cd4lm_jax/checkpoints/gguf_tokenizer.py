"""The tokenizer in a GGUF file's metadata, as the two files that transformers reads."""

from __future__ import annotations

import json
import os
from typing import Any

from cd4lm_jax.checkpoints import gguf_files
from cd4lm_jax.checkpoints.family import HuggingFaceError

_CONTROL, _USER_DEFINED = 3, 4
"""Types of tokens that are matched before a text is divided; those of the first are special."""

# How texts are divided into words, by the name that llama.cpp gives it.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")
_WORDS = {"qwen2": _QWEN2, "llama-bpe": _LLAMA3}
_SINGLE_DIGITS = ("smollm", "refact", "command-r")
_PLAIN = ("gpt-2", "default")


def texts(file: str | os.PathLike[str]) -> dict[str, str]:
    """`tokenizer.json` and `tokenizer_config.json` from the metadata of a GGUF file, by name.

    Raises:
        HuggingFaceError: the tokenizer is of another kind than byte-level BPE.
    """
    data = gguf_files.metadata(gguf_files.reader(file))
    tokens = data["tokenizer.ggml.tokens"]
    encoder = _encoder(data, str(file))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        number = data.get(f"tokenizer.ggml.{key}_token_id")
        if number is not None:
            settings[f"{name}_token"] = tokens[number]
    if "tokenizer.chat_template" in data:
        settings["chat_template"] = data["tokenizer.chat_template"]
    return {
        "tokenizer.json": encoder.to_str(pretty=True) + "\n",
        "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False) + "\n",
    }


def _encoder(data: dict[str, Any], where: str) -> Any:
    """The `tokenizers.Tokenizer`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    model = data.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise HuggingFaceError(
            f"{where}: its tokenizer is of the kind {model!r}, only byte-level BPE (gpt2) is read; "
            "convert the published folder instead"
        )
    tokens = data["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in data.get("tokenizer.ggml.merges", [])]
    encoder = Tokenizer(
        models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges)
    )
    encoder.pre_tokenizer = _division(data.get("tokenizer.ggml.pre", "default"), where)
    encoder.decoder = decoders.ByteLevel()
    types = data.get("tokenizer.ggml.token_type", [])
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        chosen = [token for token, found in zip(tokens, types, strict=False) if found == kind]
        added = [AddedToken(token, special=special, normalized=False) for token in chosen]
        (encoder.add_special_tokens if special else encoder.add_tokens)(added)
    return encoder


def _division(name: str, where: str) -> Any:
    """How a text is divided into the words that BPE merges within."""
    from tokenizers import Regex, pre_tokenizers

    if name in _WORDS:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS[name]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in _SINGLE_DIGITS:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    if name in _PLAIN:
        return words
    known = ", ".join((*_WORDS, *_SINGLE_DIGITS, *_PLAIN))
    raise HuggingFaceError(
        f"{where}: its tokenizer divides texts by {name!r}; {known} are read; convert the "
        "published folder instead"
    )
