"""Calls between the two processes of a judgement: each may ask, and answers while it waits.

The checker asks for what an answer's functions and objects do; the candidate's process asks for
nothing but the results of functions that a test gave it as arguments.
"""

from __future__ import annotations

import builtins
import collections
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from cd4lm_jax.evaluation.judges.apart import wire


class Peer:
    """One side of a channel.

    A request is `{"ask": operation, "of": [arguments]}`. Its reply has `value`, or `raised`: the
    classes of an exception by name, nearest first, and its arguments; `after`, by position, the
    arguments that the operation changed; `same`, the position of the argument that it returned; and
    `printed`.

    Attributes:
        channel: to the other side.
        tag: of references to this side's objects.
        operations: what the other side may ask for.
        wrap: what stands for the other side's object of a number.
        printed: what this side printed since it was last asked.
    """

    def __init__(
        self,
        channel: wire.Channel,
        tag: str,
        operations: Mapping[str, Callable[..., Any]],
        wrap: Callable[[Peer, int], Any],
        printed: Callable[[], str],
    ) -> None:
        self.channel, self.tag = channel, tag
        self.operations, self.wrap, self.printed = operations, wrap, printed
        self._lock = threading.RLock()  # threads of an answer may call a test's function
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}  # of objects by id
        self.exceptions: dict[str, type[BaseException]] = {}  # the other side's, by name

    def encode(self, value: Any) -> Any:
        """A value as JSON; an object that is no plain data as a reference to it."""
        try:
            return wire.encode(value, self._refer)
        except RecursionError:
            return self._refer(value)

    def decode(self, message: Any) -> Any:
        """The value of what the other side encoded."""
        return wire.decode(message, self._resolve)

    def ask(self, operation: str, *arguments: Any) -> Any:
        """What an operation of the other side returns.

        Arguments that it changed, such as a list that it sorted, are changed here too.

        Raises:
            BaseException: what it raised, as the nearest built-in exception.
            WireError: the other side broke the protocol, or is gone.
        """
        request = {"ask": operation, "of": [self.encode(value) for value in arguments]}
        with self._lock:
            self.channel.send(request)
            while True:
                message = self.channel.receive()
                if not isinstance(message, dict):
                    raise wire.WireError("a message that is neither a request nor a reply")
                if "ask" not in message:
                    return self._result(message, arguments)
                self.channel.send(self.reply(message))

    def serve(self) -> None:
        """Answers requests until the other side is gone.

        Raises:
            WireError: it is.
        """
        while True:
            self.channel.send(self.reply(self.channel.receive()))

    def reply(self, request: dict[str, Any]) -> dict[str, Any]:
        """Does what the other side asks for."""
        operation = self.operations.get(request["ask"])
        if operation is None:
            raise wire.WireError(f"{request['ask']!r} may not be asked for")
        before = request["of"]
        arguments = [self.decode(message) for message in before]
        reply: dict[str, Any] = {}
        try:
            value = operation(*arguments)
            same = [place for place, given in enumerate(arguments) if given is value]
            if same and isinstance(value, _MUTABLE):
                reply["same"] = same[0]
            else:
                reply["value"] = self.encode(value)
        except wire.WireError:
            raise
        except BaseException as error:
            reply["raised"] = self.encode(_raised(error))
        reply["after"] = {
            str(place): after
            for place, value in enumerate(arguments)
            if isinstance(value, _MUTABLE) and (after := self.encode(value)) != before[place]
        }
        reply["printed"] = self.printed()
        return reply

    def _result(self, reply: dict[str, Any], arguments: tuple[Any, ...]) -> Any:
        for place, changed in (reply.get("after") or {}).items():
            _change(arguments[int(place)], self.decode(changed))
        sys.stdout.write(str(reply.get("printed") or ""))
        if "raised" in reply:
            raise self._exception(*self.decode(reply["raised"]))
        return arguments[reply["same"]] if "same" in reply else self.decode(reply.get("value"))

    def _exception(self, names: list[str], arguments: list[Any]) -> BaseException:
        kinds = (self.exceptions.get(name) or getattr(builtins, name, None) for name in names)
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseException):
                try:
                    return kind(*arguments)
                except TypeError:
                    return RuntimeError(*arguments)
        raise wire.WireError(f"{names} are no exceptions")

    def _exception_class(self, name: str, *bases: str) -> type[BaseException]:
        """A class of this side for one of the other, below its nearest built-in one."""
        if name not in self.exceptions:
            found = [self.exceptions.get(base) or getattr(builtins, base, None) for base in bases]
            kinds = [kind for kind in found if isinstance(kind, type)]
            if not kinds or not issubclass(kinds[0], BaseException):
                raise wire.WireError(f"{name!r} is no exception")
            self.exceptions[name] = type(name, (kinds[0],), {})
        return self.exceptions[name]

    def _refer(self, value: Any) -> Any:
        number = getattr(value, "_peer_number", None) if isinstance(value, Reference) else None
        if number is not None:
            return {"yours": number}
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"exception": _classes(value)}
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return {self.tag: self._numbers[id(value)]}

    def _resolve(self, message: dict[str, Any]) -> Any:
        if "yours" in message:
            return self._objects[message["yours"]]
        if "exception" in message:
            return self._exception_class(*message["exception"])
        (number,) = message.values()
        if not isinstance(number, int):
            raise TypeError("a reference without a number")
        return self.wrap(self, number)


class Reference:
    """Stands for an object of the other side.

    Attributes:
        _peer: this side.
        _peer_number: the object's number on the other side.
    """

    __slots__ = ("_peer", "_peer_number")
    _peer: Peer
    _peer_number: int

    def __init__(self, peer: Peer, number: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_peer_number", number)


_MUTABLE = (list, dict, set, bytearray, collections.deque)


def _change(value: Any, changed: Any) -> None:
    """Gives a mutable value the content of another of its type."""
    if type(value) is not type(changed) or not isinstance(value, _MUTABLE):
        raise wire.WireError("an argument that cannot have changed into this")
    value.clear()
    value.update(changed) if isinstance(value, (dict, set)) else value.extend(changed)


def _raised(error: BaseException) -> list[Any]:
    """The classes of an exception by name, and its arguments or its text."""
    plain = all(item is None or isinstance(item, (bool, int, str)) for item in error.args)
    return [_classes(type(error)), list(error.args) if plain else [str(error)]]


def _classes(kind: type[BaseException]) -> list[str]:
    return [base.__name__ for base in kind.__mro__ if base is not object]
