"""Frozen dataclasses of settings <-> plain data (JSON) and `name=text` overrides.

The one place that knows how to take nested settings apart and to rebuild them. A field may be
bool, int, float, str, a Literal, a tuple, another dataclass, or any of these `| None`. A field may
also be one of several dataclasses (see `cd4lm_jax.settings.choices`); which one is named as if it
had a field `kind`, or in text, with its fields, as `NAME(FIELD=VALUE)`. Rebuilding runs
`__post_init__` once, with all changes in place, so checks across fields hold.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

from cd4lm_jax.settings.choices import (
    Choice,
    ConfigError,
    changes,
    choice,
    is_single,
    nearest,
    split_call,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")
Convert = Callable[[Any, Any, str], Any]  # (value, type of the field, name of the field)

_KIND = "kind"


def to_plain(config: DataclassInstance) -> dict[str, Any]:
    """Nested dict of JSON values; floats that JSON lacks become "nan", "inf" and "-inf"."""
    hints = _hints(type(config))
    names = [field.name for field in dataclasses.fields(config)]
    return {name: _plain(getattr(config, name), hints[name]) for name in names}


def from_plain(kind: type[C], data: Mapping[str, Any], where: str = "config") -> C:
    """The inverse of `to_plain`; fields that `data` lacks take their defaults.

    Raises:
        ConfigError: an unknown, missing or ill-typed field, named with `where` in front.
    """
    return _build(kind, None, data, where, _from_plain_value)


def override(config: C, changes: Mapping[str, str], where: str = "config") -> C:
    """A copy of `config` with fields set from text, as given on a command line.

    Args:
        config: the settings to start from.
        changes: dotted field name -> text, such as `{"optimizer.learning_rate": "1e-5"}`. Tuples
          are comma-separated; "none" sets an optional field to None, and setting a field of an
          optional group that is None creates the group. `{"loss.kind": "Name"}` chooses among
          several groups; fields that are not set besides take their defaults.
        where: what errors call the settings.

    Raises:
        ConfigError: an unknown or ill-typed field.
    """
    tree: dict[str, Any] = {}
    for name, text in changes.items():
        *groups, last = name.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"{where}.{name}: {group!r} is also set as a whole")
        branch[last] = text
    return _build(type(config), config, tree, where, _from_text)


def validate(config: C, where: str = "config") -> C:
    """`config` with every field checked against its type (an int given for a float is one).

    Raises:
        ConfigError: an ill-typed field.
    """
    return from_plain(type(config), to_plain(config), where)


def config_to_json(config: DataclassInstance) -> str:
    """`to_plain` as indented JSON text, for saved runs."""
    return json.dumps(to_plain(config), indent=2, allow_nan=False) + "\n"


def config_from_json(kind: type[C], text: str, where: str = "config") -> C:
    """The inverse of `config_to_json`.

    Raises:
        ConfigError: no JSON, no JSON object, or as `from_plain`.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a JSON object, got {_short(data)}")
    return from_plain(kind, data, where)


def describe(
    kind: type[DataclassInstance], config: DataclassInstance | None = None, where: str = "config"
) -> Iterator[tuple[str, str, Any]]:
    """Yields (dotted name, type, value) of every field; value is `...` where none is set."""
    hints = _hints(kind)
    for field in dataclasses.fields(kind):
        name, value = f"{where}.{field.name}", _default(field)
        if config is not None:
            value = getattr(config, field.name)
        found = choice(hints[field.name])
        if found is not None and value is not None:
            group = next(iter(found.known().values())) if value is ... else type(value)
            if not is_single(found):
                yield f"{name}.{_KIND}", " or ".join(found.known()), found.name(group)
            yield from describe(group, None if value is ... else value, name)
        elif partial := changes(hints[field.name]):
            for changed, kind_of_it in _hints(partial.of).items():
                yield f"{name}.{changed}", expected(kind_of_it), (value or {}).get(changed)
        else:
            yield name, expected(hints[field.name]), value


def from_text(text: str, kind: Any, where: str) -> Any:
    """A value of a type, as typed on a command line.

    Raises:
        ConfigError: text that is none, named with `where` in front.
    """
    return _from_text(text, kind, where)


def _build(
    kind: type[C], base: C | None, data: Mapping[str, Any], where: str, convert: Convert
) -> C:
    """A `kind` with the fields in `data`; the others from `base`, or their defaults."""
    hints = _hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    values = {} if base is None else {name: getattr(base, name) for name in fields}
    for name, value in data.items():
        if name not in fields:
            raise ConfigError(f"no field {name!r} in {where}; {nearest(name, list(fields))}")
        at = f"{where}.{name}"
        if isinstance(value, Mapping) and (found := choice(hints[name])):
            group, base_group, value = _chosen(found, values.get(name), value, at)
            values[name] = _build(group, base_group, value, at, convert)
        elif isinstance(value, Mapping) and (partial := changes(hints[name])):
            values[name] = {**values.get(name, {}), **_changed(partial.of, value, at, convert)}
        elif isinstance(value, Mapping):
            raise ConfigError(f"{at} is {expected(hints[name])}, it has no fields to set")
        else:
            values[name] = convert(value, hints[name], at)
    missing = [n for n, f in fields.items() if n not in values and _default(f) is ...]
    if missing:
        raise ConfigError(f"{where} lacks {missing[0]!r}, which has no default")
    return kind(**values)


def _changed(
    kind: type[Any], data: Mapping[str, Any], where: str, convert: Convert
) -> dict[str, Any]:
    """The fields of `kind` in `data`, each checked."""
    hints, found = _hints(kind), {}
    for name, value in data.items():
        if name not in hints:
            raise ConfigError(f"no field {name!r} in {where}; {nearest(name, list(hints))}")
        at = f"{where}.{name}"
        if isinstance(value, Mapping) and (group := choice(hints[name])):
            chosen, _, fields = _chosen(group, None, value, at)
            found[name] = _build(chosen, None, fields, at, convert)
        else:
            found[name] = convert(value, hints[name], at)
    return found


def _chosen(
    found: Choice, base: Any, data: Mapping[str, Any], at: str
) -> tuple[type[Any], Any, Mapping[str, Any]]:
    """The group that is meant, what of it is there already, and the fields to set."""
    if is_single(found):
        return next(iter(found.known().values())), base, data
    # Without a name: the one that is there, else the first.
    if _KIND in data or base is None:
        group = _find(found, str(data.get(_KIND, next(iter(found.known())))), f"{at}.{_KIND}")
    else:
        group = type(base)
    fields = {field: value for field, value in data.items() if field != _KIND}
    return group, base if type(base) is group else None, fields


def _find(found: Choice, name: str, at: str) -> type[Any]:
    try:
        return found.find(name)
    except ConfigError as error:
        raise ConfigError(f"{at}: {error}") from None


def _from_call(text: str, found: Choice, at: str) -> Any:
    """A group given as `NAME(FIELD=VALUE, ...)`, or as its fields alone where it has one name."""
    try:
        name, fields = split_call(text)
    except ConfigError as error:
        raise ConfigError(f"{at}: {error}") from None
    return _build(_find(found, name, at), None, fields, at, _from_text)


def _plain(value: Any, kind: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = choice(kind)
        named = {} if found is None or is_single(found) else {_KIND: found.name(type(value))}
        return {**named, **to_plain(value)}
    if isinstance(value, Mapping) and (partial := changes(kind)):
        hints = _hints(partial.of)
        return {name: _plain(item, hints[name]) for name, item in value.items()}
    if isinstance(value, tuple | list):
        kinds = _item_kinds(_tuple_of(kind), len(value))
        return [_plain(item, item_kind) for item, item_kind in zip(value, kinds, strict=True)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _from_plain_value(value: Any, kind: Any, at: str) -> Any:
    """Checks a JSON value against a field's type and returns it in that type."""
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        kinds = _item_kinds(kind, len(value), at)
        items = enumerate(zip(value, kinds, strict=True))
        return tuple(_from_plain_value(item, k, f"{at}[{i}]") for i, (item, k) in items)
    if isinstance(value, Mapping) and (found := choice(kind)):  # within a tuple
        group, _, fields = _chosen(found, None, value, at)
        return _build(group, None, fields, at, _from_plain_value)
    if kind is float and value in ("nan", "inf", "-inf"):
        return float(value)
    if kind is float and type(value) is int:
        return float(value)
    if kind in (bool, int, float, str) and type(value) is kind:
        return value
    if kind is type(None) and value is None:
        return None
    return _from_choices(value, kind, at, _from_plain_value)


def _from_text(text: str, kind: Any, at: str) -> Any:
    """Parses a field's value as typed on a command line."""
    if (found := choice(kind)) and not is_single(found) and text.lower() != "none":
        return _from_call(text, found, at)
    if typing.get_origin(kind) is tuple:
        inner = text.strip()
        if inner[:1] in ("(", "[") and inner[-1:] in (")", "]"):
            inner = inner[1:-1]
        parts = [p.strip(" '\"") for p in re.split(r",(?![^(\[]*[)\]])", inner) if p.strip()]
        kinds = _item_kinds(kind, len(parts), at)
        return tuple(_from_text(part, k, at) for part, k in zip(parts, kinds, strict=True))
    if kind is bool and text.lower() in ("true", "false", "1", "0"):
        return text.lower() in ("true", "1")
    if kind is str:
        return text
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise _ill_typed(at, text, kind) from None
    if kind is type(None) and text.lower() == "none":
        return None
    return _from_choices(text, kind, at, _from_text)


def _from_choices(value: Any, kind: Any, at: str, convert: Convert) -> Any:
    """The kinds that offer a choice: Literal and unions; else the value is ill-typed."""
    if typing.get_origin(kind) is Literal:
        for choice in typing.get_args(kind):
            # On a command line every choice is text; elsewhere True is not 1.
            text = convert is _from_text and value == str(choice)
            if text or (type(value) is type(choice) and value == choice):
                return choice
    elif typing.get_origin(kind) in (Union, types.UnionType):
        # None first: text "none" means None even where a str would do.
        for option in sorted(typing.get_args(kind), key=lambda k: k is not type(None)):
            try:
                return convert(value, option, at)
            except ConfigError:
                continue
    raise _ill_typed(at, value, kind)


def _ill_typed(at: str, value: Any, kind: Any) -> ConfigError:
    if found := choice(kind):
        names = " or ".join(found.known())
        field = "FIELD" if is_single(found) else f"{_KIND} to {names}"
        return ConfigError(f"{at} is a group of fields, got {_short(value)}; set {at}.{field}")
    return ConfigError(f"{at}: expected {expected(kind)}, got {_short(value)}")


def _tuple_of(kind: Any) -> Any:
    """The tuple type among those that a field may have."""
    options = typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else ()
    return next((option for option in options if typing.get_origin(option) is tuple), kind)


def _item_kinds(kind: Any, length: int, at: str = "") -> list[Any]:
    args = typing.get_args(kind)
    if len(args) == 2 and args[1] is ...:
        return [args[0]] * length
    if len(args) != length:
        raise ConfigError(f"{at}: expected {len(args)} values, got {length}")
    return list(args)


def _hints(kind: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return ... if field.default_factory is dataclasses.MISSING else field.default_factory()


def expected(kind: Any) -> str:
    """A field's type in words, for errors and help."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if found := choice(kind):
        return " or ".join([*found.known(), *(["None"] if type(None) in args else [])])
    if partial := changes(kind):
        return f"changes of {partial.of.__name__}"
    if origin in (Union, types.UnionType):
        return " or ".join(expected(k) for k in args)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in args)
    if origin is tuple:
        return f"tuple of {expected(args[0])}" if args[-1] is ... else f"{len(args)} values"
    return "None" if kind is type(None) else str(getattr(kind, "__name__", kind))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
