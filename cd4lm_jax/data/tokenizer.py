"""Text to token ids and back: byte-level BPE with LLaDA's special tokens and chat template.

`Tokenizer.load` reads any fast-tokenizer folder of the LLaDA family: `tokenizer.json` and
`tokenizer_config.json` with a `chat_template`. Special tokens are found by name.

What a user writes is always text: a literal `<|mdm_mask|>` in a question is spelled out in
ordinary tokens and never becomes the mask. Only the chat template writes special tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from cd4lm_jax.runtime.files import write_text

BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
MASK = "<|mdm_mask|>"
START_HEADER = "<|start_header_id|>"
END_HEADER = "<|end_header_id|>"
EOT = "<|eot_id|>"
SPECIAL_TOKENS = (BOS, EOS, MASK, START_HEADER, END_HEADER, EOT)

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
        found = {name: self._text_encoder.token_to_id(name) for name in SPECIAL_TOKENS}
        self._ids = {name: token for name, token in found.items() if token is not None}
        if missing := [name for name in SPECIAL_TOKENS if name not in self._ids]:
            raise TokenizerError(
                f"{source} has no token {', '.join(missing)}: expected a tokenizer of the LLaDA "
                f"family with {', '.join(SPECIAL_TOKENS)}"
            )
        for encoder in (self._template_encoder, self._text_encoder):
            # Some folders list a name without marking it special, and then the next line would
            # not keep it out of a user's text.
            encoder.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL_TOKENS])
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

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Reads `tokenizer.json` and `tokenizer_config.json` of a folder.

        Raises:
          TokenizerError: a file is missing or damaged, or a special token is not in it.
        """
        folder = Path(folder)
        texts = []
        for name in ("tokenizer.json", "tokenizer_config.json"):
            try:
                texts.append((folder / name).read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError) as error:
                raise TokenizerError(
                    f"cannot read {name} in {folder}: expected a Hugging Face tokenizer folder "
                    f"({error})"
                ) from error
        try:
            config = json.loads(texts[1])
        except json.JSONDecodeError as error:
            raise TokenizerError(f"{folder / 'tokenizer_config.json'}: {error}") from error
        if not isinstance(config, dict):
            raise TokenizerError(f"{folder / 'tokenizer_config.json'}: expected a JSON object")
        template = folder / "chat_template.jinja"  # where newer folders keep it
        if "chat_template" not in config and template.is_file():
            config["chat_template"] = template.read_text(encoding="utf-8")
        return cls(texts[0], config, str(folder))

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

        The template writes the BOS, so there is exactly one.
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
            messages=messages, add_generation_prompt=True, bos_token=BOS, eos_token=EOS
        )

    def encode_rendered(self, text: str) -> list[int]:
        """The ids of what `render` gave: names of special tokens are those tokens."""
        return list(self._template_encoder.encode(text, add_special_tokens=False).ids)

    @property
    def mask_id(self) -> int:
        """The mask token `<|mdm_mask|>`."""
        return self._ids[MASK]

    @property
    def bos_id(self) -> int:
        """The first token of a prompt, `<|startoftext|>`."""
        return self._ids[BOS]

    @property
    def eos_id(self) -> int:
        """End of text and padding, `<|endoftext|>`."""
        return self._ids[EOS]

    @property
    def eot_id(self) -> int:
        """End of a turn, `<|eot_id|>`."""
        return self._ids[EOT]

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included; a model's vocabulary may be padded beyond."""
        return int(self._template_encoder.get_vocab_size(with_added_tokens=True))

    def _render(self, content: str) -> str:
        return self.render([{"role": "user", "content": content}])


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a small byte-level BPE with LLaDA's special tokens; the same for the same texts.

    Args:
      texts: what to learn words from.
      vocab_size: tokens in all: 6 special, 256 bytes, the rest merges.
    """
    encoder = tokenizers.Tokenizer(models.BPE())
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    encoder.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    encoder.train_from_iterator(texts, trainer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "mask_token": MASK,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    return Tokenizer(encoder.to_str(), config)
