"""Training rows as people have them, read as conversations; every assistant turn is an answer.

The forms: `messages` (OpenAI), `conversations` (ShareGPT), `instruction`/`input`/`output` (Alpaca),
`prompt`/`completion` (texts or messages) and other pairs of texts, `question`/`answer` first.
A conversation gives an example for each assistant turn: the turn is the answer, all before it the
prompt. A turn without words answers nothing and is counted; one whose `weight` is 0 (OpenAI) is
part of prompts alone.

What a turn has besides its words (calls of tools, reasoning, a name) is kept for the chat template,
and so are the row's `tools`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict, cast

from cd4lm_jax.runtime.json_files import kind

Answers = Literal["every", "last"]
"""Which assistant turns of a row are answers."""

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


_BESIDE_WORDS = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
"""With one of these a turn needs no words."""


class RowError(ValueError):
    """A row that is no conversation: what is wrong with it, without its place."""


class Message(TypedDict):
    """A turn of a conversation; whatever else a row says of it is kept under its own name.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        content: what it says.
        tool_calls: in OpenAI's form, the arguments as objects.
        reasoning_content: what a model thought before it answered.
    """

    role: str
    content: str
    tool_calls: NotRequired[list[Any]]
    reasoning_content: NotRequired[str]


class Example(TypedDict):
    """A question and its answer.

    Attributes:
        question: the last user turn.
        answer: what the assistant says to it.
        messages: all turns before the answer, where there are more than the question.
        turn: the answer as a turn, where it has more than words.
        tools: that the assistant may call, for the chat template.
    """

    question: str
    answer: str
    messages: NotRequired[list[Message]]
    turn: NotRequired[Message]
    tools: NotRequired[list[Any]]


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


def turns(row: Any, answers: Answers = "every", *, unanswered: bool = False) -> Turns:
    """The examples of a row of any of the forms.

    Args:
        row: an object of a file.
        answers: the assistant turns that are answers; the last one alone may be wanted.
        unanswered: questions are wanted, for a model to answer: what a row asks last counts without
            an answer, and so does a turn without words.

    Raises:
        RowError: another form, a field that is no text, or no assistant turn.
    """
    found, given = _messages_of(_with_answer(row) if unanswered else row)
    said = [
        place
        for place, message in enumerate(found)
        if message["role"] == "assistant" and place >= given
    ]
    if unanswered and found[-1]["role"] in ("user", "tool"):
        said.append(len(found))
        found = [*found, Message(role="assistant", content="")]
    if not said:
        raise RowError("no assistant turn, so nothing to train on")
    tools = _tools(row)
    examples: list[Example] = []
    skipped = 0
    for place in said if answers == "every" else said[-1:]:
        message, before = found[place], found[:place]
        if _weight(message) == 0:
            continue
        question = next((m["content"] for m in reversed(before) if m["role"] == "user"), None)
        more = message.keys() - {"role", "content", "weight"}
        if question is None or not (unanswered or message["content"].strip() or more):
            skipped += 1
            continue
        example = Example(question=question, answer=message["content"])
        if place > 1 or before[0].keys() > {"role", "content"}:
            example["messages"] = before
        if more:
            example["turn"] = message
        if tools:
            example["tools"] = tools
        examples.append(example)
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


def _with_answer(row: Any) -> Any:
    """A row that has a question alone with an answer without words."""
    if not isinstance(row, dict) or any(set(pair) <= row.keys() for pair in PAIRS):
        return row
    pair = next((pair for pair in PAIRS if pair[0] in row), None)
    return row if pair is None else {**row, pair[1]: ""}


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
    taken = (named, said, "role", "content")
    more = {
        str(name): value
        for name, value in turn.items()
        if name not in taken and value not in (None, "", [], {})
    }
    if "tool_calls" in more:
        more["tool_calls"] = _calls(more["tool_calls"], where)
    message = Message(role=_ROLES[role.strip().lower()], content=_content(turn, said, where))
    return cast(Message, {**message, **more})


def _calls(calls: Any, where: str) -> list[Any]:
    """Calls of tools with their arguments as objects, which templates write as JSON themselves."""
    if not isinstance(calls, list):
        raise RowError(f"{where}: tool_calls is {kind(calls)}; expected a list")
    read = []
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            arguments = _parsed(function["arguments"], f"{where}: arguments of a tool call")
            call = {**call, "function": {**function, "arguments": arguments}}
        read.append(call)
    return read


def _tools(row: Mapping[str, Any]) -> list[Any]:
    """The tools of a row; data sets also have them as JSON text."""
    tools = row.get("tools") or []
    tools = _parsed(tools, '"tools"') if isinstance(tools, str) else tools
    if not isinstance(tools, list):
        raise RowError(f'"tools" is {kind(tools)}; expected a list')
    return tools


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RowError(f"{name} is no JSON ({str(error).splitlines()[0]})") from None


def _weight(message: Message) -> Any:
    return cast(Mapping[str, Any], message).get("weight")


def _content(turn: Mapping[str, Any], field: str, where: str) -> str:
    content = turn.get(field)
    if content is None and not turn.keys().isdisjoint(_BESIDE_WORDS):
        return ""
    if isinstance(content, list):  # OpenAI's parts
        return "".join(_part(part, where) for part in content)
    return as_text(content, f"{where}: {field}")


def _part(part: Any, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text":
        return as_text(part.get("text"), f"{where}: a part of content")
    found = part.get("type") if isinstance(part, dict) else kind(part)
    raise RowError(f"{where}: a part of content is {str(found)[:40]!r}; only texts can be read")
