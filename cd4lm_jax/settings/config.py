"""Frozen dataclasses of settings <-> plain data (JSON) and `name=text` overrides.

The one place that knows how to take nested settings apart and to rebuild them. A field may be
bool, int, float, str, a Literal, a tuple, another dataclass, or any of these `| None`. A field may
also be one of several dataclasses; which one is named by its class, as if it had a field `kind`.
Rebuilding runs `__post_init__` once, with all changes in place, so checks across fields hold.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")
Convert = Callable[[Any, Any, str], Any]  # (value, type of the field, name of the field)

_KIND = "kind"


class ConfigError(ValueError):
    """A setting that does not exist, is missing or has the wrong type; one line."""


def to_plain(config: DataclassInstance) -> dict[str, Any]:
    """Nested dict of JSON values; floats that JSON lacks become "nan", "inf" and "-inf"."""
    hints, plain = typing.get_type_hints(type(config)), {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        plain[field.name] = _plain(value)
        if len(_groups(hints[field.name])) > 1 and value is not None:
            plain[field.name] = {_KIND: type(value).__name__, **plain[field.name]}
    return plain


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
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name, value = f"{where}.{field.name}", _default(field)
        if config is not None:
            value = getattr(config, field.name)
        groups = _groups(hints[field.name])
        if groups and value is not None:
            group = next(iter(groups.values())) if value is ... else type(value)
            if len(groups) > 1:
                yield f"{name}.{_KIND}", " or ".join(groups), group.__name__
            yield from describe(group, None if value is ... else value, name)
        else:
            yield name, _expected(hints[field.name]), value


def nearest(name: str, known: list[str]) -> str:
    """The tail of an error about an unknown name: "did you mean 'x'?" or the known names."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _build(
    kind: type[C], base: C | None, data: Mapping[str, Any], where: str, convert: Convert
) -> C:
    """A `kind` with the fields in `data`; the others from `base`, or their defaults."""
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    values = {} if base is None else {name: getattr(base, name) for name in fields}
    for name, value in data.items():
        if name not in fields:
            raise ConfigError(f"no field {name!r} in {where}; {nearest(name, list(fields))}")
        at = f"{where}.{name}"
        if isinstance(value, Mapping) and (groups := _groups(hints[name])):
            group, base_group, value = _chosen(groups, values.get(name), value, at)
            values[name] = _build(group, base_group, value, at, convert)
        elif isinstance(value, Mapping):
            raise ConfigError(f"{at} is {_expected(hints[name])}, it has no fields to set")
        else:
            values[name] = convert(value, hints[name], at)
    missing = [n for n, f in fields.items() if n not in values and _default(f) is ...]
    if missing:
        raise ConfigError(f"{where} lacks {missing[0]!r}, which has no default")
    return kind(**values)


def _chosen(
    groups: dict[str, type[Any]], base: Any, data: Mapping[str, Any], at: str
) -> tuple[type[Any], Any, Mapping[str, Any]]:
    """The group that is meant, what of it is there already, and the fields to set."""
    if len(groups) == 1:
        return next(iter(groups.values())), base, data
    # Without a name: the one that is there, else the first.
    name = str(data.get(_KIND, next(iter(groups)) if base is None else type(base).__name__))
    if name not in groups:
        raise ConfigError(f"{at}.{_KIND}: no {name!r}; {nearest(name, list(groups))}")
    fields = {field: value for field, value in data.items() if field != _KIND}
    return groups[name], base if type(base) is groups[name] else None, fields


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_plain(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _from_plain_value(value: Any, kind: Any, at: str) -> Any:
    """Checks a JSON value against a field's type and returns it in that type."""
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        kinds = _item_kinds(kind, len(value), at)
        items = enumerate(zip(value, kinds, strict=True))
        return tuple(_from_plain_value(item, k, f"{at}[{i}]") for i, (item, k) in items)
    if isinstance(value, Mapping) and (groups := _groups(kind)):  # within a tuple
        group, _, fields = _chosen(groups, None, value, at)
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
    if typing.get_origin(kind) is tuple:
        parts = [p.strip(" '\"") for p in text.strip(" ()[]").split(",") if p.strip()]
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
    if groups := _groups(kind):
        field = "FIELD" if len(groups) == 1 else f"{_KIND} to {' or '.join(groups)}"
        return ConfigError(f"{at} is a group of fields, got {_short(value)}; set {at}.{field}")
    return ConfigError(f"{at}: expected {_expected(kind)}, got {_short(value)}")


def _item_kinds(kind: Any, length: int, at: str) -> list[Any]:
    args = typing.get_args(kind)
    if len(args) == 2 and args[1] is ...:
        return [args[0]] * length
    if len(args) != length:
        raise ConfigError(f"{at}: expected {len(args)} values, got {length}")
    return list(args)


def _groups(kind: Any) -> dict[str, type[Any]]:
    """The dataclasses in a field's type by name, be it optional or not."""
    options = typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else ()
    kinds = (k for k in (kind, *options) if isinstance(k, type) and dataclasses.is_dataclass(k))
    return {k.__name__: k for k in kinds}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return ... if field.default_factory is dataclasses.MISSING else field.default_factory()


def _expected(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(k) for k in args)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in args)
    if origin is tuple:
        return f"tuple of {_expected(args[0])}" if args[-1] is ... else f"{len(args)} values"
    return "None" if kind is type(None) else str(getattr(kind, "__name__", kind))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
