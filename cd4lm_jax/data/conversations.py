"""Training rows as people have them, read as conversations; every assistant turn is an answer.

The forms: `messages` (OpenAI), `conversations` (ShareGPT), `instruction`/`input`/`output` (Alpaca),
`prompt`/`completion` (texts or messages) and other pairs of texts, `question`/`answer` first.
A conversation gives an example for each assistant turn: the turn is the answer, all before it the
prompt. A turn without words answers nothing and is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

from cd4lm_jax.runtime.json_files import kind

PAIRS = (
    ("question", "answer"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("query", "response"),
    ("problem", "solution"),
    ("input", "output"),
)
"""Fields of a text and its answer, in the order in which they are tried."""

_ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "function_call": "assistant",
    "observation": "tool",
}


class RowError(ValueError):
    """A row that is no conversation: what is wrong with it, without its place."""


class Message(TypedDict):
    """A turn of a conversation."""

    role: str
    content: str


class Example(TypedDict):
    """A question and its answer.

    Attributes:
        question: the last user turn.
        answer: what the assistant says to it.
        messages: all turns before the answer, where there are more than the question.
    """

    question: str
    answer: str
    messages: NotRequired[list[Message]]


class Turns(NamedTuple):
    """What a row gives.

    Attributes:
        examples: one for each assistant turn.
        skipped: assistant turns that answer nothing: without words, or before any user turn.
    """

    examples: list[Example]
    skipped: int


def conversation(example: Example) -> list[Message]:
    """The turns before an example's answer."""
    alone = Message(role="user", content=example["question"])
    return example.get("messages") or [alone]


def turns(row: Any) -> Turns:
    """The examples of a row of any of the forms.

    Raises:
        RowError: another form, a field that is no text, or no assistant turn.
    """
    found, given = _messages_of(row)
    examples: list[Example] = []
    skipped = answers = 0
    question: str | None = None
    for place, message in enumerate(found):
        if message["role"] == "user":
            question = message["content"]
        if message["role"] != "assistant" or place < given:
            continue
        answers += 1
        if question is None or not message["content"].strip():
            skipped += 1
            continue
        example = Example(question=question, answer=message["content"])
        if place > 1:
            example["messages"] = found[:place]
        examples.append(example)
    if not answers:
        raise RowError("no assistant turn, so nothing to train on")
    return Turns(examples, skipped)


def messages(value: Any, field: str = "messages") -> list[Message]:
    """A list of turns, in OpenAI's form or ShareGPT's.

    Args:
        value: a list of objects with `role` and `content`, or `from` and `value`.
        field: the name of the list, for messages.

    Raises:
        RowError: something else; the turn is named.
    """
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else kind(value)
        raise RowError(f'expected a list of turns "{field}", found {found}')
    return [_message(turn, f"turn {number} of {field}") for number, turn in enumerate(value, 1)]


def text(row: Mapping[str, Any], field: str) -> str:
    """A text field; a number is the text that it is written as.

    Raises:
        RowError: no such field, or one that is neither.
    """
    if field not in row:
        raise RowError(f'expected a text field "{field}", found {sorted(map(str, row))}')
    return as_text(row[field], f'"{field}"')


def as_text(value: Any, name: str) -> str:
    """A text, or a number as text.

    Raises:
        RowError: something else, named as what it is.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise RowError(f"{name} is {kind(value)}; expected a text")


def _messages_of(row: Any) -> tuple[list[Message], int]:
    """The turns of a row, and how many of them are a prompt whatever their roles."""
    if not isinstance(row, dict):
        raise RowError(f"expected an object with question and answer, or messages, got {kind(row)}")
    for field in ("messages", "conversations", "conversation"):
        if field in row:
            return _system(row) + messages(row[field], field), 0
    asked, answered = next((pair for pair in PAIRS if set(pair) <= row.keys()), PAIRS[0])
    if asked == "prompt" and isinstance(row[asked], list):
        prompt = messages(row[asked], asked)
        return prompt + _completion(row[answered], answered), len(prompt)
    question = text(row, asked)
    if asked == "instruction":  # Alpaca's input is what the instruction is about
        more = as_text(row.get("input") or row.get("context") or "", '"input"')
        question = f"{question}\n{more}" if more else question
    answer = Message(role="assistant", content=text(row, answered))
    return [*_system(row), *_history(row), Message(role="user", content=question), answer], 0


def _completion(value: Any, field: str) -> list[Message]:
    if isinstance(value, list):
        return messages(value, field)
    return [Message(role="assistant", content=as_text(value, f'"{field}"'))]


def _system(row: Mapping[str, Any]) -> list[Message]:
    """The system prompt that ShareGPT's and Alpaca's rows may have as a field of its own."""
    system = row.get("system") or row.get("system_prompt") or ""
    return [Message(role="system", content=as_text(system, '"system"'))] if system else []


def _history(row: Mapping[str, Any]) -> list[Message]:
    """Earlier turns of an Alpaca row: pairs of texts."""
    found: list[Message] = []
    history = row.get("history") or []
    if not isinstance(history, list):
        raise RowError(f'"history" is {kind(history)}; expected a list of pairs of texts')
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise RowError(f"pair {number} of history: expected two texts, found {kind(pair)}")
        for role, said in zip(("user", "assistant"), pair, strict=True):
            content = as_text(said, f"pair {number} of history")
            found.append(Message(role=role, content=content))
    return found


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict):
        raise RowError(f"{where}: expected an object with role and content, found {kind(turn)}")
    named, said = ("role", "content") if "role" in turn else ("from", "value")
    if named not in turn:
        raise RowError(f"{where}: expected role and content, found {sorted(map(str, turn))}")
    role = turn[named]
    if not isinstance(role, str) or role.strip().lower() not in _ROLES:
        raise RowError(
            f"{where}: {named} is {str(role)[:40]!r}; expected one of {', '.join(_ROLES)}"
        )
    return Message(role=_ROLES[role.strip().lower()], content=_content(turn, said, where))


def _content(turn: Mapping[str, Any], field: str, where: str) -> str:
    content = turn.get(field)
    if content is None and ("tool_calls" in turn or "function_call" in turn):
        return ""  # a call of a tool, without words
    if isinstance(content, list):  # OpenAI's parts
        return "".join(_part(part, where) for part in content)
    return as_text(content, f"{where}: {field}")


def _part(part: Any, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text":
        return as_text(part.get("text"), f"{where}: a part of content")
    found = part.get("type") if isinstance(part, dict) else kind(part)
    raise RowError(f"{where}: a part of content is {str(found)[:40]!r}; only texts can be read")
