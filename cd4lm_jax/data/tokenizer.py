"""Text to token ids and back: byte-level BPE with a family's special tokens and chat template.

`Tokenizer.load` reads a tokenizer folder of the LLaDA or Dream family: `tokenizer.json` (or Qwen's
`vocab.json` and `merges.txt`) and `tokenizer_config.json` with a `chat_template`. Special tokens
are found by name.

What a user writes is always text: a literal `<|mdm_mask|>` in a question is spelled out in
ordinary tokens and never becomes the mask. Only the chat template writes special tokens.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from cd4lm_jax.runtime.files import write_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """What a family of models calls its special tokens.

    Attributes:
      family: whose they are.
      bos: begins a text.
      eos: ends a text, and pads.
      mask: stands for what is not yet known.
      headers: the marks around the name of who speaks.
      eot: ends a turn.
    """

    family: str
    bos: str
    eos: str
    mask: str
    headers: tuple[str, ...]
    eot: str

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (self.bos, self.eos, self.mask, *self.headers, self.eot)


LLADA = SpecialTokens(
    family="LLaDA",
    bos="<|startoftext|>",
    eos="<|endoftext|>",
    mask="<|mdm_mask|>",
    headers=("<|start_header_id|>", "<|end_header_id|>"),
    eot="<|eot_id|>",
)
DREAM = SpecialTokens(
    family="Dream",
    bos="<|beginoftext|>",
    eos="<|endoftext|>",
    mask="<|mask|>",
    headers=("<|im_start|>",),
    eot="<|im_end|>",
)

# Renders as LLaDA's own: it writes the BOS itself and always ends after the assistant's header.
# Line breaks stand within expressions, for jinja drops the last one of a template's plain text.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim }}{{ '<|eot_id|>' }}"
    "{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)

# A word takes its leading space with it; a digit and any other sign stand alone.
_PIECES = r" ?\p{L}+|\p{N}|#+|[^\s\p{L}\p{N}]|\n+|\s"

# How Qwen's tokenizers take a text apart; of folders that have no tokenizer.json.
_QWEN_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_DEFINITION, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_VOCABULARY, _MERGES = "vocab.json", "merges.txt"

# Stands for the user's words while the template around them is rendered.
_CONTENT = "\ufdd0"


class TokenizerError(ValueError):
    """A tokenizer folder that cannot be used."""


class Tokenizer:
    """Encodes text, renders prompts. Safe to share between threads."""

    def __init__(self, definition: str, config: dict[str, Any], source: str = "tokenizer") -> None:
        """Reads a tokenizer from memory; see `load` for a folder.

        Args:
          definition: the text of a `tokenizer.json`.
          config: the fields of a `tokenizer_config.json`.
          source: what errors name.
        """
        try:
            self._template_encoder = tokenizers.Tokenizer.from_str(definition)
            self._text_encoder = tokenizers.Tokenizer.from_str(definition)
        except Exception as error:  # the Rust side raises bare Exception
            raise TokenizerError(f"{source} is not a tokenizer.json: {error}") from error
        self.config = config
        is_dream = self._text_encoder.token_to_id(DREAM.mask) is not None
        self._special = special = DREAM if is_dream else LLADA
        found = {name: self._text_encoder.token_to_id(name) for name in special.names}
        self._ids = {name: token for name, token in found.items() if token is not None}
        if missing := [name for name in special.names if name not in self._ids]:
            raise TokenizerError(
                f"{source} has no token {', '.join(missing)}: expected a tokenizer of the "
                f"{special.family} family with {', '.join(special.names)}"
            )
        for encoder in (self._template_encoder, self._text_encoder):
            # Some folders list a name without marking it special, and then the next line would
            # not keep it out of a user's text.
            encoder.add_special_tokens([AddedToken(name, special=True) for name in special.names])
            encoder.no_padding()
            encoder.no_truncation()
        self._text_encoder.encode_special_tokens = True
        self._literals = [
            token.content for token in self._text_encoder.get_added_tokens_decoder().values()
        ]
        template = config.get("chat_template")
        if not isinstance(template, str):
            raise TokenizerError(f"{source} has no chat_template: expected a jinja text")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        try:
            self._template = environment.from_string(template)
        except jinja2.TemplateError as error:
            raise TokenizerError(f"{source} has a faulty chat_template: {error}") from error

    @staticmethod
    def lies_in(folder: str | Path) -> bool:
        """Whether `load` would find a tokenizer's files in a folder."""
        return any((Path(folder) / name).is_file() for name in (_DEFINITION, _VOCABULARY))

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Reads `tokenizer.json`, or what Qwen has instead, and `tokenizer_config.json`.

        Raises:
          TokenizerError: a file is missing or damaged, or a special token is not in it.
        """
        folder = Path(folder)
        in_parts = cls.lies_in(folder) and not (folder / _DEFINITION).is_file()
        definition = "" if in_parts else _text(folder, _DEFINITION)
        try:
            config = json.loads(_text(folder, _CONFIG))
        except json.JSONDecodeError as error:
            raise TokenizerError(f"{folder / _CONFIG}: {error}") from error
        if not isinstance(config, dict):
            raise TokenizerError(f"{folder / _CONFIG}: expected a JSON object")
        template = folder / "chat_template.jinja"  # where newer folders keep it
        if "chat_template" not in config and template.is_file():
            config["chat_template"] = template.read_text(encoding="utf-8")
        return cls(_qwen(folder, config) if in_parts else definition, config, str(folder))

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[str, dict[str, Any]]]:
        # A compiled template cannot be sent to another process, what it came from can.
        return Tokenizer, (self._template_encoder.to_str(), self.config)

    def save(self, folder: str | Path) -> None:
        """Writes the two files that `load` reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "tokenizer.json", self._template_encoder.to_str(pretty=True) + "\n")
        config = json.dumps(self.config, indent=2, ensure_ascii=False) + "\n"
        write_text(folder / "tokenizer_config.json", config)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens around or in it."""
        return list(self._text_encoder.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of token ids."""
        return self._template_encoder.decode(
            [int(token) for token in ids], skip_special_tokens=skip_special
        )

    def decode_one(self, token: int) -> str:
        """The text of one token, a special one's name."""
        return self.decode([token], skip_special=False)

    def prompt(self, question: str) -> list[int]:
        """The ids of the chat template around a question, up to the assistant's header.

        LLaDA's template writes the BOS, so there is exactly one.
        """
        if not any(literal in question for literal in self._literals):
            return self.encode_rendered(self._render(question))
        # A special token's name as the user's own text: encode that part as text, alone.
        before, _, after = self._render(_CONTENT).partition(_CONTENT)
        content = self.encode(question.strip())
        return self.encode_rendered(before) + content + self.encode_rendered(after)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A conversation (``role`` and ``content``) in the chat template, as text."""
        return self._template.render(
            messages=messages,
            add_generation_prompt=True,
            bos_token=self._special.bos,
            eos_token=self._special.eos,
        )

    def encode_rendered(self, text: str) -> list[int]:
        """The ids of what `render` gave: names of special tokens are those tokens."""
        return list(self._template_encoder.encode(text, add_special_tokens=False).ids)

    @property
    def mask_id(self) -> int:
        """The mask token, LLaDA's `<|mdm_mask|>`."""
        return self._ids[self._special.mask]

    @property
    def bos_id(self) -> int:
        """Begin of text, the first token of LLaDA's prompts, `<|startoftext|>`."""
        return self._ids[self._special.bos]

    @property
    def eos_id(self) -> int:
        """End of text and padding, `<|endoftext|>`."""
        return self._ids[self._special.eos]

    @property
    def eot_id(self) -> int:
        """End of a turn, LLaDA's `<|eot_id|>`."""
        return self._ids[self._special.eot]

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included; a model's vocabulary may be padded beyond."""
        return int(self._template_encoder.get_vocab_size(with_added_tokens=True))

    def _render(self, content: str) -> str:
        return self.render([{"role": "user", "content": content}])


def _text(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(
            f"cannot read {name} in {folder}: expected a Hugging Face tokenizer folder ({error})"
        ) from error


def _byte_level(model: models.BPE, pieces: str) -> tokenizers.Tokenizer:
    encoder = tokenizers.Tokenizer(model)
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    encoder.decoder = decoders.ByteLevel()
    return encoder


def _qwen(folder: Path, config: dict[str, Any]) -> str:
    """The text of the `tokenizer.json` that a folder in Qwen's way does without."""
    names = (_VOCABULARY, _MERGES)
    try:
        model = models.BPE.from_file(*(str(folder / name) for name in names))
    except Exception as error:  # the Rust side raises bare Exception
        raise TokenizerError(f"cannot read {' and '.join(names)} in {folder}: {error}") from error
    encoder = _byte_level(model, _QWEN_PIECES)
    encoder.normalizer = normalizers.NFC()
    added = sorted((int(token), entry) for token, entry in config["added_tokens_decoder"].items())
    encoder.add_tokens(
        [AddedToken(entry["content"], special=entry["special"]) for _, entry in added]
    )
    for token, entry in added:
        if (place := encoder.token_to_id(entry["content"])) != token:
            raise TokenizerError(
                f"{folder / _CONFIG} gives {entry['content']} the id {token}, the vocabulary "
                f"{place}; fetch the files again"
            )
    return str(encoder.to_str())


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a small byte-level BPE with LLaDA's special tokens; the same for the same texts.

    Args:
      texts: what to learn words from.
      vocab_size: tokens in all: 6 special, 256 bytes, the rest merges.
    """
    encoder = _byte_level(models.BPE(), _PIECES)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=list(LLADA.names),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    encoder.train_from_iterator(texts, trainer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": LLADA.bos,
        "eos_token": LLADA.eos,
        "pad_token": LLADA.eos,
        "mask_token": LLADA.mask,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    return Tokenizer(encoder.to_str(), config)
