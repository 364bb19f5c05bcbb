"""Text to token ids and back: byte-level BPE with a family's special tokens and chat template.

`Tokenizer.load` reads a tokenizer folder, see `tokenizer_files`. Special tokens are found by name.

What a user writes is always text: a literal `<|mdm_mask|>` in a question is spelled out in
ordinary tokens and never becomes the mask. Only the chat template writes special tokens.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from cd4lm_jax.data import tokenizer_files
from cd4lm_jax.data.chat import ChatTemplate, ChatTemplateError, RenderedChat
from cd4lm_jax.data.special_tokens import SpecialTokens, family_of
from cd4lm_jax.data.tokenizer_files import TokenizerError
from cd4lm_jax.runtime.files import write_text


class Tokenizer:
    """Encodes text, renders prompts. Safe to share between threads."""

    def __init__(self, definition: str, config: dict[str, Any], source: str = "tokenizer") -> None:
        """Reads a tokenizer from memory; see `load` for a folder.

        Args:
            definition: the text of a `tokenizer.json`.
            config: the fields of a `tokenizer_config.json`; `chat_template` is a jinja text.
            source: what errors name.

        Raises:
            TokenizerError: a damaged definition or template, or a special token that is missing.
        """
        try:
            self._template_encoder = tokenizers.Tokenizer.from_str(definition)
            self._text_encoder = tokenizers.Tokenizer.from_str(definition)
        except Exception as error:  # the Rust side raises bare Exception
            raise TokenizerError(f"{source} is not a tokenizer.json: {error}") from error
        self.config = config
        self._special = special = family_of(self._text_encoder.token_to_id)
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
        self._template = self._chat_template(source)

    def _chat_template(self, source: str) -> ChatTemplate:
        template = self.config.get("chat_template")
        if not isinstance(template, str):
            raise TokenizerError(f"{source} has no chat_template: expected a jinja text")
        added = self._text_encoder.get_added_tokens_decoder().values()
        variables = tokenizer_files.token_texts(self.config) | {
            "bos_token": self._special.bos or "",
            "eos_token": self._special.eos,
        }
        try:
            return ChatTemplate(template, variables, [t.content for t in added if t.special])
        except ChatTemplateError as error:
            raise TokenizerError(f"{source} has a {error}") from error

    @staticmethod
    def lies_in(folder: str | Path) -> bool:
        """Whether `load` would find a tokenizer's files in a folder."""
        return tokenizer_files.lie_in(Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Reads a tokenizer folder.

        Raises:
            TokenizerError: a file is missing or damaged, or a special token is not in it.
        """
        return cls(*tokenizer_files.read(Path(folder)), str(folder))

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
        """The ids of a text, without special tokens around or in it.

        Raises:
            ValueError: the text holds half of a character (a lone surrogate).
        """
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of several texts, as `encode` of each gives them, on all cores.

        Raises:
            ValueError: a text holds half of a character (a lone surrogate).
        """
        try:
            if len(texts) == 1:
                return [list(self._text_encoder.encode(texts[0], add_special_tokens=False).ids)]
            found = self._text_encoder.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            raise ValueError(
                "a text holds half of a character (a lone surrogate), which has no UTF-8 form"
            ) from error
        return [list(encoding.ids) for encoding in found]

    def encode_framed(self, text: str) -> list[int]:
        """The ids of a text and of what the folder's tokenizer adds to one, LLaDA's a BOS.

        It is what Hugging Face tokenizers give when they are called.
        """
        return list(self._text_encoder.encode(text, add_special_tokens=True).ids)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of token ids."""
        return self._template_encoder.decode(
            [int(token) for token in ids], skip_special_tokens=skip_special
        )

    def decode_one(self, token: int) -> str:
        """The text of one token, a special one's name."""
        return self.decode([token], skip_special=False)

    def prompt(
        self, question: str | Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None
    ) -> list[int]:
        """The ids of the chat template around a question, up to the assistant's header.

        LLaDA's template writes the BOS, so there is exactly one.

        Args:
            question: what a user asks, or a conversation: messages with `role` and `content`.
            tools: that the assistant may call.

        Raises:
            ChatTemplateError: the template refuses the conversation.
        """
        if isinstance(question, str):
            question = [{"role": "user", "content": question}]
        return self.encode_rendered(self.render(question, tools=tools))

    def turn(
        self,
        before: Sequence[Mapping[str, Any]],
        message: Mapping[str, Any],
        tools: Sequence[Any] | None = None,
    ) -> list[int]:
        """The ids of an assistant's turn as the template writes it, its end of turn included.

        Args:
            before: the conversation up to it.
            message: the turn, with calls of tools or reasoning.
            tools: that the assistant may call.

        Raises:
            ChatTemplateError: the template refuses the conversation, or begins the turn otherwise
                than it prompts for it.
        """
        asked = self.render(before, tools=tools)
        whole = self.render([*before, message], add_generation_prompt=False, tools=tools)
        if not whole.startswith(asked):
            raise ChatTemplateError(
                "chat_template begins an assistant's turn otherwise than it prompts for one, so a "
                "turn with reasoning or calls of tools cannot be an answer"
            )
        ids = self.encode_rendered(whole.after(len(asked)))
        end = ids.index(self.eot_id) if self.eot_id in ids else len(ids)
        return [*ids[:end], self.eot_id]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Any] | None = None,
    ) -> RenderedChat:
        """A conversation in the chat template, as text; see `ChatTemplate.render`.

        Raises:
            ChatTemplateError: the template refuses the conversation.
        """
        return self._template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
        )

    def encode_rendered(self, chat: str, more: str = "") -> list[int]:
        """The ids of a rendered conversation: its special tokens are one token each.

        Args:
            chat: what `render` gave. In a text that it did not give, every name of a special token
                is that token.
            more: text that follows it, without special tokens.
        """
        if not more and not getattr(chat, "literals", ()):
            return list(self._template_encoder.encode(str(chat), add_special_tokens=False).ids)
        parts = self._template.split(chat)
        if parts and not parts[-1][1]:  # words may merge with those that follow
            more = parts.pop()[0] + more
        ids: list[int] = []
        for part, special in [*parts, (more, False)]:
            ids += [self._special_ids[part]] if special else self.encode(part) if part else []
        return ids

    @functools.cached_property
    def _special_ids(self) -> dict[str, int]:
        added = self._text_encoder.get_added_tokens_decoder()
        return {token.content: place for place, token in added.items()}

    @property
    def chat_template(self) -> str:
        """The jinja text of the chat template."""
        return str(self.config["chat_template"])

    @property
    def special_tokens(self) -> SpecialTokens:
        """What the family calls its special tokens."""
        return self._special

    @property
    def mask_id(self) -> int:
        """The mask token, LLaDA's `<|mdm_mask|>`."""
        return self._ids[self._special.mask]

    @property
    def bos_id(self) -> int:
        """Begin of text, the first token of LLaDA's prompts; EOS in families without one."""
        return self._ids[self._special.bos or self._special.eos]

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
