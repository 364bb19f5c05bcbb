"""How an example becomes a row of tokens, and which of them are the answer.

`chat`, the default: `[prompt in the chat template | answer | EOT | EOS ...]`. The answer region has
a fixed length and all of it is trained, the EOS tail included: that is how a model learns to end.

`plain`, the rows that CD4LM (2601.02236) published (its `src/data/collator.py`): question, space
and answer as one text, no template and no end token, before it the BOS where the tokenizer adds
one. The answer is what follows as many tokens as the question and its space have, so a first word
that merges with that space belongs to the prompt.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from cd4lm_jax.data.conversations import Example, conversation
from cd4lm_jax.data.tokenizer import Tokenizer

LayoutName = Literal["chat", "plain"]


class Row(NamedTuple):
    """An example as tokens.

    Attributes:
        tokens: int32 `[tokens]`, prompt and answer; EOS follows up to `end`.
        prompt: how many of them are the prompt.
        end: where the answer region ends, at least `len(tokens)`.
        truncated: the prompt was too long and lost its start.
        size: tokens of what must fit `Layout.room`, before anything was cut.
    """

    tokens: np.ndarray
    prompt: int
    end: int
    truncated: bool
    size: int


class Layout(Protocol):
    """Maps an example to tokens and answer region."""

    @property
    def room(self) -> int:
        """Tokens that there are for what `Row.size` counts."""
        ...

    @property
    def advice(self) -> str:
        """What makes room, for messages."""
        ...

    @property
    def counts_answers_alone(self) -> bool:
        """Whether `Row.size` does not depend on the question."""
        ...

    def row(self, example: Example) -> Row:
        """The row of an example; what does not fit is cut off at its end."""
        ...


@dataclasses.dataclass(frozen=True)
class ChatLayout:
    """Prompt in the chat template, answer, end of turn, and EOS up to a fixed length."""

    tokenizer: Tokenizer
    answer_length: int
    max_length: int

    counts_answers_alone: ClassVar[bool] = True

    @property
    def room(self) -> int:
        """Tokens of an answer's text; the end of turn follows it."""
        return self.answer_length - 1

    @property
    def advice(self) -> str:
        """What makes room."""
        return f"to fit answer_length {self.answer_length} with its end of turn"

    def row(self, example: Example) -> Row:
        """The row of an example; a cut answer has no end of turn.

        Raises:
            ChatTemplateError: the template refuses the conversation.
        """
        before, tools = conversation(example), example.get("tools")
        whole = self.tokenizer.prompt(before, tools)
        prompt = whole[-(self.max_length - self.answer_length) :]
        if "turn" in example:  # what it has besides words is the template's to write
            answer = self.tokenizer.turn(before, example["turn"], tools)
        else:
            answer = [*self.tokenizer.encode(example["answer"]), self.tokenizer.eot_id]
        tokens = np.array([*prompt, *answer[: self.answer_length]], np.int32)
        end = len(prompt) + self.answer_length
        return Row(tokens, len(prompt), end, len(prompt) < len(whole), len(answer) - 1)


@dataclasses.dataclass(frozen=True)
class PlainLayout:
    """Question, space and answer as one text."""

    tokenizer: Tokenizer
    max_length: int

    counts_answers_alone: ClassVar[bool] = False

    @property
    def room(self) -> int:
        """Tokens of a whole text."""
        return self.max_length

    @property
    def advice(self) -> str:
        """What makes room."""
        return f"with its question to fit max_length {self.max_length}"

    def row(self, example: Example) -> Row:
        """The row of an example; one without an answer left has an empty region."""
        asked = f"{_asked(example)} "
        whole = self.tokenizer.encode_framed(asked + example["answer"])
        tokens = whole[: self.max_length]
        prompt = min(len(self.tokenizer.encode_framed(asked)), len(tokens))
        return Row(np.array(tokens, np.int32), prompt, len(tokens), False, len(whole))


def make_layout(
    name: LayoutName, tokenizer: Tokenizer, *, answer_length: int, max_length: int
) -> Layout:
    """The layout of a name."""
    if name == "plain":
        return PlainLayout(tokenizer, max_length)
    return ChatLayout(tokenizer, answer_length, max_length)


def _asked(example: Example) -> str:
    return "\n".join(message["content"] for message in conversation(example))
