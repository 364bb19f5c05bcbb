"""Command-line flags derived from the fields of a dataclass: name, type, default and help line.

A field that is a group, such as a decode's `rule`, is given whole as `--rule=NAME(FIELD=VALUE)`, or
field by field as `--rule.FIELD=VALUE`. Only flags that were given override the settings to start
from, so a default stands in the dataclass alone.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from absl import flags

from cd4lm_jax.settings.choices import choice
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
            default = "" if field.default in (None, False, ()) else f" (default {_shown(field)})"
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

    def chosen(self, base: C | None = None, **changes: str) -> C:
        """The settings that the flags ask for.

        Args:
            base: settings to start from; the dataclass's defaults if None.
            changes: fields as text that the flags, where given, override.

        Raises:
            ConfigError: a value of the wrong type.
            ValueError: values that do not fit each other.
        """
        given = {**changes}
        for name, holder in self._holders.items():
            if holder.value is not None:
                given[name] = str(holder.value)
        start = self._cls() if base is None else base
        whole = {name: text for name, text in given.items() if name in self._groups}
        if whole:
            start = override(start, whole, where="flags")
        rest = {name: text for name, text in given.items() if name not in whole}
        for group in self._groups:
            rest |= {f"{group}.{field}": text for field, text in _dotted[group].items()}
        return override(start, rest, where="flags")

    def given(self, name: str) -> bool:
        """Whether the command line sets a field, whole or in part."""
        return self._holders[name].value is not None or bool(_dotted.get(name))


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
    rest = []
    for argument in argv:
        match = re.fullmatch(r"--?(\w+)\.([\w.]+)=(.*)", argument, re.DOTALL)
        if match is not None and match[1] in _dotted:
            _dotted[match[1]][match[2]] = match[3]
        else:
            rest.append(argument)
    return rest


def _shown(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ", ".join(
            f"{it.name}={getattr(value, it.name)}" for it in dataclasses.fields(value)
        )
        return f"{type(value).__name__}({fields})"
    return str(value)
