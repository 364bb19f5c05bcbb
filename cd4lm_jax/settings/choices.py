"""Fields that hold one of several dataclasses: a closed set by union, or an open set by name.

A closed set is written `A | B`. An open set, to which users add, is `Annotated[Protocol, CHOICE]`
with a `CHOICE` that finds classes by name; commit rules are one.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from typing import Any, Protocol, Union, runtime_checkable


class ConfigError(ValueError):
    """A setting that does not exist, is missing or has the wrong type; one line."""


@runtime_checkable
class Choice(Protocol):
    """What a field may hold, by name."""

    def known(self) -> dict[str, type[Any]]:
        """The classes that can be listed, by name."""

    def find(self, name: str) -> type[Any]:
        """A class by name.

        Raises:
            ConfigError: no such class.
        """

    def name(self, cls: type[Any]) -> str:
        """What `find` finds a class by."""


@dataclasses.dataclass(frozen=True)
class Closed:
    """The dataclasses of a union."""

    kinds: dict[str, type[Any]]

    def known(self) -> dict[str, type[Any]]:
        """The classes by name."""
        return self.kinds

    def find(self, name: str) -> type[Any]:
        """A class by name.

        Raises:
            ConfigError: no such class.
        """
        if name not in self.kinds:
            raise ConfigError(f"no {name!r}; {nearest(name, list(self.kinds))}")
        return self.kinds[name]

    def name(self, cls: type[Any]) -> str:
        """The class's own name."""
        return cls.__name__


@dataclasses.dataclass(frozen=True)
class Changes:
    """A field that holds changed fields of another dataclass: `Annotated[Mapping, Changes(of)]`.

    Attributes:
        of: the dataclass; each change is checked as its field is.
    """

    of: type[Any]


def changes(kind: Any) -> Changes | None:
    """Whose fields a field's type holds changes of; None for other fields."""
    extras = typing.get_args(kind)[1:] if _is_annotated(kind) else ()
    return next((extra for extra in extras if isinstance(extra, Changes)), None)


def choice(kind: Any) -> Choice | None:
    """What a field's type offers to choose among, be it optional or not; None for plain values."""
    closed = {}
    for option in _options(kind):
        for extra in typing.get_args(option)[1:] if _is_annotated(option) else ():
            if isinstance(extra, Choice):
                return extra
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            closed[option.__name__] = option
    return Closed(closed) if closed else None


def is_single(found: Choice) -> bool:
    """Whether there is nothing to choose, so that no name is needed."""
    return isinstance(found, Closed) and len(found.kinds) == 1


def split_call(text: str) -> tuple[str, dict[str, str]]:
    """The name and the fields of `name(field=value, ...)`; `name` alone has none.

    >>> split_call("my_rule.py:Half(share=0.5)")
    ('my_rule.py:Half', {'share': '0.5'})

    Raises:
        ConfigError: text of another form.
    """
    match = re.fullmatch(r"\s*([^()\s]+)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if match is None:
        raise ConfigError(f"{text!r} is not of the form NAME or NAME(FIELD=VALUE, ...)")
    fields = {}
    for part in re.split(r",(?![^(\[]*[)\]])", match[2] or ""):
        name, equals, value = part.partition("=")
        if not part.strip():
            continue
        if not equals:
            raise ConfigError(f"{text!r}: {part.strip()!r} has no value; write FIELD=VALUE")
        fields[name.strip()] = value.strip(" '\"")
    return match[1], fields


def nearest(name: str, known: list[str]) -> str:
    """The tail of an error about an unknown name: "did you mean 'x'?" or the known names."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _is_annotated(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Annotated


def _options(kind: Any) -> tuple[Any, ...]:
    if typing.get_origin(kind) in (Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)
