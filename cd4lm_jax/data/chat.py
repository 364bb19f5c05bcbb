"""Chat templates: conversations as text, in which a user's words are never special tokens.

A template is the jinja text of a Hugging Face folder. What templates use is here: `bos_token` and
the like, `add_generation_prompt`, `raise_exception`, `strftime_now`, `tojson`, the loop controls
`break` and `continue`, and the tag `generation` around what the assistant says.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# A noncharacter, which no text is supposed to hold; see `ChatTemplate.render`.
_MARK = "\ufdd0"


class ChatTemplateError(ValueError):
    """A chat template that cannot be read or rendered; one line."""


class RenderedChat(str):
    """A conversation as the template writes it.

    Attributes:
        literals: start and end of each place where the text of a special token is a user's own
            words; there it stays text when the conversation is encoded.
    """

    literals: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, marked: str, names: Sequence[str], mark: str) -> RenderedChat:
        """The conversation of a text in which each literal is `mark`, its number, `mark`."""
        parts: list[str] = []
        spans: list[tuple[int, int]] = []
        length = end = 0
        for found in re.finditer(f"{mark}([0-9]+){mark}", marked):
            parts += [marked[end : found.start()], names[int(found[1])]]
            length += len(parts[-2])
            spans.append((length, length + len(parts[-1])))
            length, end = spans[-1][1], found.end()
        chat = cls("".join([*parts, marked[end:]]))
        chat.literals = tuple(spans)
        return chat

    def after(self, place: int) -> RenderedChat:
        """What follows the first `place` characters."""
        rest = RenderedChat(self[place:])
        rest.literals = tuple(
            (first - place, last - place) for first, last in self.literals if first >= place
        )
        return rest


class ChatTemplate:
    """A compiled template."""

    def __init__(self, source: str, variables: Mapping[str, str], special: Sequence[str]) -> None:
        """Compiles a template.

        Args:
            source: the jinja text.
            variables: `bos_token`, `eos_token` and the like.
            special: the texts of special tokens.

        Raises:
            ChatTemplateError: not a jinja template.
        """
        self._variables = dict(variables)
        self._special = sorted(special, key=len, reverse=True)  # the longest that matches
        self._pattern = re.compile("|".join(map(re.escape, self._special)) or r"(?!)")
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"faulty chat_template: {_line(error)}") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Any] | None = None,
    ) -> RenderedChat:
        """A conversation as text.

        Args:
            messages: turns with `role` and `content`, and whatever else the template knows.
            add_generation_prompt: end with the header of the assistant's turn. Some templates,
                LLaDA's among them, do so in any case.
            continue_final_message: end with the words of the last turn instead, for an answer
                whose beginning is given.
            tools: that the assistant may call, as the template wants them.

        Raises:
            ChatTemplateError: the template refuses the conversation, or does not fit it.
        """
        # While the template is rendered, a mark stands for every special token that is written in
        # a message: afterwards all other special tokens are the template's.
        mark = _MARK * (1 + _longest_run([messages, tools]))
        marked = self._escape(list(messages), mark)
        end = f"{mark}E{mark} "
        if continue_final_message:
            if not marked:
                raise ChatTemplateError("no message to continue: the conversation is empty")
            marked[-1] = {**marked[-1], "content": f"{marked[-1].get('content') or ''}{end}"}
        try:
            text = self._template.render(
                messages=marked,
                add_generation_prompt=add_generation_prompt and not continue_final_message,
                tools=self._escape(tools, mark) or None,
                documents=None,
                **self._variables,
            )
        except ChatTemplateError:
            raise
        except Exception as error:  # a template can raise whatever Python raises
            raise ChatTemplateError(f"chat_template cannot be rendered: {_line(error)}") from error
        if continue_final_message:
            text = _before(text, end)
        return RenderedChat.of(text, self._special, mark)

    def split(self, chat: str) -> list[tuple[str, bool]]:
        """The parts of a rendered conversation: texts, and special tokens (True)."""
        literals = getattr(chat, "literals", ())
        parts: list[tuple[str, bool]] = []
        end = position = 0
        while found := self._pattern.search(chat, position):
            inside = [
                last for first, last in literals if first < found.end() and found.start() < last
            ]
            if inside:
                position = inside[-1]
                continue
            parts += [(chat[end : found.start()], False), (found[0], True)]
            end = position = found.end()
        return [part for part in [*parts, (chat[end:], False)] if part[0]]

    def _escape(self, value: Any, mark: str) -> Any:
        if isinstance(value, str):
            numbers = self._special.index
            return self._pattern.sub(lambda found: f"{mark}{numbers(found[0])}{mark}", value)
        if isinstance(value, Mapping):
            return {name: self._escape(part, mark) for name, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._escape(part, mark) for part in value]
        return value


class _Generation(jinja2.ext.Extension):
    """The tag `{% generation %}`, which marks the assistant's words and renders nothing itself."""

    tags = {"generation"}  # noqa: RUF012  (jinja's own form)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    """As the field's templates are written for: block lines leave no trace, and these names."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """JSON without jinja's escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _raise_exception(message: object) -> None:
    raise ChatTemplateError(f"chat_template refuses the conversation: {_line(message)}")


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _before(text: str, end: str) -> str:
    """What stands before the mark at the end of the last message.

    A template that trims messages has removed the space in it, and then also that of the words.
    """
    place = text.rfind(end.rstrip())
    if place < 0:
        raise ChatTemplateError(
            "chat_template leaves out the last message, so it cannot be continued"
        )
    return text[:place] if text.startswith(end, place) else text[:place].rstrip()


def _longest_run(value: Any) -> int:
    """The longest run of the mark's character in any text of a value."""
    if isinstance(value, str):
        return max(map(len, re.findall(f"{_MARK}+", value)), default=0)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return max(map(_longest_run, value), default=0)
    return 0


def _line(error: object) -> str:
    """A message in one line."""
    text = " ".join(str(error).split())
    return text or type(error).__name__
