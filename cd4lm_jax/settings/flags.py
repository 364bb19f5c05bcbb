"""Command-line flags derived from the fields of a dataclass: name, type, default and help line.

A field that is a group, such as a decode's `rule`, is given whole as `--rule=NAME(FIELD=VALUE)`, or
field by field as `--rule.FIELD=VALUE`. Only flags that were given override the settings to start
from, so a default stands in the dataclass alone.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from absl import flags

from cd4lm_jax.settings.choices import choice, split_call
from cd4lm_jax.settings.config import expected, override
from cd4lm_jax.settings.documents import field_lines

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")

_dotted: dict[str, dict[str, str]] = {}
"""For each group of a derived flag the fields that the command line sets by themselves."""


class Derived(Generic[C]):
    """The flags of a dataclass; see `define`."""

    def __init__(self, cls: type[C], leave_out: Sequence[str], module: str) -> None:
        self._cls = cls
        self._holders: dict[str, flags.FlagHolder[Any]] = {}
        self._groups: list[str] = []
        hints, lines = typing.get_type_hints(cls, include_extras=True), field_lines(cls)
        for field in dataclasses.fields(cls):
            if field.name in leave_out:
                continue
            kind, line = hints[field.name], lines.get(field.name, "")
            text = f"{line[:1].upper()}{line[1:]}".rstrip(".") + "."
            default = (
                "" if field.default in (None, False, ()) else f" (default {_shown(field, kind)})"
            )
            if kind is bool:
                holder: Any = flags.DEFINE_bool(
                    field.name, None, f"{text}{default}", module_name=module
                )
            else:
                # The type is checked with the others' in one place, see `chosen`.
                help_text = f"{text} [{expected(kind)}]{default}"
                holder = flags.DEFINE_string(field.name, None, help_text, module_name=module)
            self._holders[field.name] = holder
            if choice(kind) is not None:
                self._groups.append(field.name)
                _dotted[field.name] = {}

    def chosen(self, base: C | None = None, changes: Mapping[str, str] = {}) -> C:
        """The settings that the flags ask for.

        Args:
            base: settings to start from; the dataclass's defaults if None.
            changes: further fields as text, such as `{"rule.threshold": "0.9"}`; the flags of the
                same fields, where given, override them.

        Raises:
            ConfigError: a value of the wrong type.
            ValueError: values that do not fit each other.
        """
        given = {**changes}
        given |= {name: text for name in self._holders if (text := self.text(name)) is not None}
        for group in self._groups:
            # In one step with the lengths that a rule is checked against.
            if group in given:
                kind, fields = split_call(given.pop(group))
                given = (
                    {f"{group}.kind": kind} | {f"{group}.{f}": v for f, v in fields.items()} | given
                )
            given |= {f"{group}.{field}": text for field, text in _dotted[group].items()}
        return override(self._cls() if base is None else base, given, where="flags")

    def text(self, name: str) -> str | None:
        """What the command line gives for a field as a whole; None where it does not."""
        value = self._holders[name].value
        return None if value is None else str(value)


def define(cls: type[C], *, leave_out: Sequence[str] = (), module: str) -> Derived[C]:
    """Defines a flag for every field of a dataclass.

    Args:
        cls: a frozen dataclass whose fields all have defaults.
        leave_out: fields without a flag.
        module: `__name__` of the module whose flags they are, for help.
    """
    return Derived(cls, leave_out, module)


def take_dotted(argv: Sequence[str]) -> list[str]:
    """A command line without its `--GROUP.FIELD=VALUE`, which `Derived.chosen` then uses."""
    for fields in _dotted.values():
        fields.clear()
    rest = []
    for argument in argv:
        match = re.fullmatch(r"--?(\w+)\.([\w.]+)=(.*)", argument, re.DOTALL)
        if match is not None and match[1] in _dotted:
            _dotted[match[1]][match[2]] = match[3]
        else:
            rest.append(argument)
    return rest


def _shown(field: dataclasses.Field[Any], kind: Any) -> str:
    """A default as text; of a group its name and first field."""
    value: Any = field.default
    found = choice(kind)
    if found is None:
        return str(value)
    first = dataclasses.fields(value)[0].name
    return f"{found.name(type(value))}({first}={getattr(value, first)})"
