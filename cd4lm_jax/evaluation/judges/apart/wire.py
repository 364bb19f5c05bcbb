"""What the two processes of a judgement say to each other: plain data as JSON, never pickles.

A value of a built-in type, and of a few types of the library, arrives as an equal one of exactly
that type, whatever class it had: an answer cannot send an object whose comparisons lie. Everything
else stays where it is and is sent as a reference. Decoding creates plain data and nothing else.

The standard library alone: both processes load this module inside their sandboxes.
"""

from __future__ import annotations

import builtins
import collections
import collections.abc
import datetime
import decimal
import fractions
import itertools
import json
import numbers
import socket
import struct
import time
import types
from collections.abc import Callable
from typing import Any

_HEADER = struct.Struct("!I")
_MOST_BYTES = 32 << 20  # of a message
_MOST_ITEMS = 100_000  # of an iterator
_EXACT = 1 << 53  # larger ints are sent in base 16, which has no limit of digits

_COLLECTIONS: dict[str, Any] = {
    "t": tuple,
    "s": set,
    "fs": frozenset,
    "dq": collections.deque,
    "d": dict,
    "od": collections.OrderedDict,
    "ct": collections.Counter,
}
_MAPPINGS = ("ct", "od", "d")
_VIEWS: dict[str, Any] = {
    "keys": type({}.keys()),
    "values": type({}.values()),
    "items": type({}.items()),
}
_MOMENTS: dict[str, Any] = {"dt": datetime.datetime, "da": datetime.date, "ti": datetime.time}


class WireError(Exception):
    """A message that is none, or a value that cannot be sent."""


class Channel:
    """Messages over a connected socket, each JSON after its length.

    Attributes:
        deadline: until when to wait for a message, by `time.monotonic`; None for ever.
    """

    def __init__(self, file: int, deadline: float | None = None) -> None:
        self._socket = socket.socket(fileno=file)
        self.deadline = deadline

    def send(self, message: Any) -> None:
        """Sends a message.

        Raises:
            OSError: the other side is gone, or took too long.
        """
        data = json.dumps(message).encode()
        self._limit()
        self._socket.sendall(_HEADER.pack(len(data)) + data)

    def receive(self) -> Any:
        """The next message.

        Raises:
            OSError: nothing came in time.
            WireError: the other side is gone, or what came is no message.
        """
        (size,) = _HEADER.unpack(self._read(_HEADER.size))
        if size > _MOST_BYTES:
            raise WireError(f"a message of {size} bytes; at most {_MOST_BYTES} are read")
        try:
            return json.loads(self._read(size))
        except (ValueError, RecursionError) as error:
            raise WireError("a message that is no JSON") from error

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            self._limit()
            part = self._socket.recv(min(size - len(parts), 1 << 16))
            if not part:
                raise WireError("the other side is gone")
            parts += part
        return bytes(parts)

    def _limit(self) -> None:
        if self.deadline is not None:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the time is over")
            self._socket.settimeout(left)


def encode(value: Any, refer: Callable[[Any], Any]) -> Any:
    """A value as JSON.

    Args:
        value: any object.
        refer: the JSON of what is no plain data.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, numbers.Number):
        return _number(value, refer)
    if isinstance(value, (bytes, bytearray)):
        return {"ba" if isinstance(value, bytearray) else "b": bytes(value).hex()}
    if isinstance(value, list):
        return [encode(item, refer) for item in list.__iter__(value)]
    for tag in _MAPPINGS:
        if isinstance(value, _COLLECTIONS[tag]):
            pairs = dict.items(value)
            return {tag: [[encode(key, refer), encode(item, refer)] for key, item in pairs]}
    for tag in ("t", "s", "fs", "dq"):
        if isinstance(value, _COLLECTIONS[tag]):
            return {tag: [encode(item, refer) for item in value]}
    if isinstance(value, range):
        return {"r": [_integer(part) for part in (value.start, value.stop, value.step)]}
    for kind, view in _VIEWS.items():
        if type(value) is view:
            return {"v": kind, "of": [encode(item, refer) for item in value]}
    for tag, moment in _MOMENTS.items():
        if isinstance(value, moment):
            return {tag: value.isoformat()}
    if isinstance(value, datetime.timedelta):
        return {"td": [value.days, value.seconds, value.microseconds]}
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    if isinstance(value, (type, types.BuiltinFunctionType)):
        name = value.__name__
        if getattr(builtins, name, None) is value:
            return {"py": name}
    return refer(value)


def decode(message: Any, resolve: Callable[[Any], Any]) -> Any:
    """The value of `encode`'s JSON.

    Args:
        message: what came.
        resolve: the object of what `refer` sent.

    Raises:
        WireError: it is nobody's encoding.
    """
    try:
        return _decode(message, resolve)
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise WireError(f"no encoding of a value: {error}") from error


def items(iterator: collections.abc.Iterator[Any], refer: Callable[[Any], Any]) -> Any:
    """An iterator by what is left of it.

    Raises:
        WireError: it is too long, or has no end.
    """
    found = list(itertools.islice(iterator, _MOST_ITEMS + 1))
    if len(found) > _MOST_ITEMS:
        raise WireError(f"an iterator of more than {_MOST_ITEMS} items")
    return {"it": [encode(item, refer) for item in found]}


def _number(value: Any, refer: Callable[[Any], Any]) -> Any:
    if isinstance(value, decimal.Decimal):
        return {"n": str(value)}
    if isinstance(value, numbers.Integral):
        return _integer(int(value))
    if isinstance(value, fractions.Fraction):
        return {"q": [hex(value.numerator), hex(value.denominator)]}
    if isinstance(value, numbers.Real):
        return {"f": float(value).hex()}
    if isinstance(value, numbers.Complex):
        number = complex(value)
        return {"c": [number.real.hex(), number.imag.hex()]}
    return refer(value)


def _integer(value: int) -> Any:
    return int(value) if -_EXACT < value < _EXACT else {"i": hex(value)}


def _decode(message: Any, resolve: Callable[[Any], Any]) -> Any:
    if message is None or isinstance(message, (bool, int, str)):
        return message
    if isinstance(message, list):
        return [_decode(item, resolve) for item in message]
    if not isinstance(message, dict) or not message:
        raise WireError("no encoding of a value")
    tag, content = next(iter(message.items()))
    if tag in _MAPPINGS:
        pairs = ((_decode(key, resolve), _decode(item, resolve)) for key, item in content)
        return _COLLECTIONS[tag](dict(pairs))
    if tag in _COLLECTIONS:
        return _COLLECTIONS[tag](_decode(item, resolve) for item in content)
    if tag in _MOMENTS:
        return _MOMENTS[tag].fromisoformat(content)
    match tag:
        case "i":
            return int(content, 16)
        case "f":
            return float.fromhex(content)
        case "c":
            return complex(*(float.fromhex(part) for part in content))
        case "n":
            return decimal.Decimal(content)
        case "q":
            return fractions.Fraction(*(int(part, 16) for part in content))
        case "b":
            return bytes.fromhex(content)
        case "ba":
            return bytearray.fromhex(content)
        case "r":
            return range(*(_decode(part, resolve) for part in content))
        case "td":
            return datetime.timedelta(*content)
        case "it":
            return iter([_decode(item, resolve) for item in content])
        case "v":
            return _view(content, [_decode(item, resolve) for item in message["of"]])
        case "py":
            return getattr(builtins, content)
    return resolve(message)


def _view(kind: str, content: list[Any]) -> Any:
    if kind == "keys":
        return dict.fromkeys(content).keys()
    return dict(content).items() if kind == "items" else dict(enumerate(content)).values()
