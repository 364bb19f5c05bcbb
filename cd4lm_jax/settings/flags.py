"""Command-line flags derived from the fields of a dataclass: name, type, default and help line.

A field that is a group, such as a decode's `rule`, is given whole as `--rule=NAME(FIELD=VALUE)`, or
field by field as `--rule.FIELD=VALUE`; a group of one kind, such as a placement's `mesh`, field by
field alone. Only flags that were given override the settings to start
from, so a default stands in the dataclass alone.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from absl import flags

from cd4lm_jax.settings.choices import choice, is_single, split_call
from cd4lm_jax.settings.config import expected, override
from cd4lm_jax.settings.documents import field_lines

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")

_dotted: dict[str, dict[str, str]] = {}
"""For each group of a derived flag the fields that the command line sets by themselves."""

_derived: dict[str, list[Derived[Any]]] = {}
"""Of each module that defined some, its derived flags."""


class Derived(Generic[C]):
    """The flags of a dataclass; see `define`."""

    def __init__(self, cls: type[C], leave_out: Sequence[str], module: str) -> None:
        self._cls = cls
        self._holders: dict[str, flags.FlagHolder[Any]] = {}
        self._groups: list[str] = []
        self._single: dict[str, type[Any]] = {}
        hints, lines = typing.get_type_hints(cls, include_extras=True), field_lines(cls)
        for field in dataclasses.fields(cls):
            if field.name in leave_out:
                continue
            kind, line = hints[field.name], lines.get(field.name, "")
            group = choice(kind)
            if group is not None:
                _dotted[field.name] = {}
                if is_single(group):
                    self._single[field.name] = next(iter(group.known().values()))
                    continue
                self._groups.append(field.name)
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
        for group in self._single:
            given |= {f"{group}.{field}": text for field, text in _dotted[group].items()}
        return override(self._cls() if base is None else base, given, where="flags")

    def help_lines(self) -> dict[str, str]:
        """Name and help of the flags that are fields of a group of one kind."""
        found = {}
        for group, cls in self._single.items():
            hints, lines = typing.get_type_hints(cls, include_extras=True), field_lines(cls)
            for field in dataclasses.fields(cls):
                text = lines.get(field.name, "").rstrip(".")
                text = f"{text[:1].upper()}{text[1:]}. [{expected(hints[field.name])}]"
                found[f"{group}.{field.name}"] = f"{text} (default {field.default})"
        return found

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
    _derived.setdefault(module, []).append(made := Derived(cls, leave_out, module))
    return made


def help_of(module: str) -> dict[str, str]:
    """Name and help of the flags `GROUP.FIELD` that a module defined."""
    found = [made.help_lines() for made in _derived.get(module, [])]
    return {name: line for lines in found for name, line in lines.items()}


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
