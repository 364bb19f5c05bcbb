"""The process that runs the tests of an answer, which runs in another one.

Names that the tests use of the answer stand for what is there. A call sends its arguments and
receives plain data; the tests compare that here, where no code of the answer runs.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

from cd4lm_jax.evaluation.judges.apart import wire
from cd4lm_jax.evaluation.judges.apart.peer import Peer, Reference


class Remote(Reference):
    """An object of the answer.

    Comparisons and sums with anything but another such object are not the answer's to decide: it
    is equal to nothing else.
    """

    __slots__ = ()

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """What it returns in its own process."""
        return self._peer.ask("apply", self, keywords, *arguments)

    def __getattr__(self, name: str) -> Any:
        return self._peer.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.ask("set", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._peer.ask("delete", self, name)

    def __getitem__(self, key: Any) -> Any:
        return self._peer.ask("item", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._peer.ask("set_item", self, key, value)

    def __delitem__(self, key: Any) -> None:
        self._peer.ask("delete_item", self, key)

    def __iter__(self) -> Iterator[Any]:
        iterator: Iterator[Any] = self._peer.ask("iter", self)
        return iterator

    def __next__(self) -> Any:
        return self._peer.ask("next", self)

    def __len__(self) -> int:
        return int(self._peer.ask("length", self))

    def __bool__(self) -> bool:
        return self._peer.ask("true", self) is True

    def __str__(self) -> str:
        return str(self._peer.ask("text", self))

    def __repr__(self) -> str:
        return str(self._peer.ask("shown", self))

    def __copy__(self) -> Any:
        return self._peer.ask("copy", self)

    def __deepcopy__(self, _: Any) -> Any:
        return self._peer.ask("deepcopy", self)

    def __enter__(self) -> Any:
        return self._peer.ask("enter", self)

    def __exit__(self, *_: object) -> bool:
        return self._peer.ask("exit", self, None, None, None) is True

    def __instancecheck__(self, instance: Any) -> bool:
        return self._peer.ask("is_instance", instance, self) is True

    def __hash__(self) -> int:
        return hash(self._peer_number)

    def __eq__(self, other: object) -> Any:
        return self._compare("equal", other)

    def __lt__(self, other: object) -> Any:
        return self._compare("less", other)

    def __le__(self, other: object) -> Any:
        return self._compare("less_or_equal", other)

    def __add__(self, other: object) -> Any:
        return self._together("add", other)

    def __sub__(self, other: object) -> Any:
        return self._together("subtract", other)

    def __mul__(self, other: object) -> Any:
        return self._together("multiply", other)

    def _compare(self, operation: str, other: object) -> Any:
        found = self._together(operation, other)
        return found if found is NotImplemented else found is True

    def _together(self, operation: str, other: object) -> Any:
        if not isinstance(other, Remote):
            return NotImplemented
        return self._peer.ask(operation, self, other)


class Checker(Peer):
    """The side of the tests, which the other may ask to call their functions and nothing else."""

    def __init__(self, channel: wire.Channel) -> None:
        super().__init__(channel, "function", {"apply": _apply}, Remote, lambda: "")

    def _refer(self, value: Any) -> Any:
        if isinstance(value, (Reference, *_FUNCTIONS)):
            return super()._refer(value)
        if isinstance(value, Iterator):
            return wire.items(value, self._refer)
        raise wire.WireError(f"a test gives the answer {type(value)}, which cannot be sent")


_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)


def _apply(function: Any, keywords: dict[str, Any], *arguments: Any) -> Any:
    if not isinstance(function, _FUNCTIONS):
        raise wire.WireError("only functions of the tests may be called")
    return function(*arguments, **keywords)


def main(channel: int, task: dict[str, Any]) -> None:
    """Runs tests and writes the verdict to standard output.

    Args:
        channel: number of the socket to the process of the answer.
        task: `tests`, a program; `stub`, code that defines what they need beside the answer;
            `entry_point`, what `check` is called with, or None where there is no `check`;
            `names` that they use of the answer; `modules` that they use without importing them;
            `seconds` for all of it; `token`, which begins the verdict.
    """
    write = os.write
    checker = Checker(wire.Channel(channel, deadline=time.monotonic() + task["seconds"]))
    try:
        # Nothing but the verdict is wanted of the output.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            verdict = _verdict(checker, task)
    except BaseException as error:
        verdict = f"failed: {type(error).__name__}"
    write(1, (task["token"] + verdict).encode(errors="replace"))


def _verdict(checker: Checker, task: dict[str, Any]) -> str:
    found = checker.channel.receive()
    if not isinstance(found, dict):
        raise wire.WireError("an answer that did not say what it defines")
    namespace: dict[str, Any] = {}
    exec(task["stub"], namespace)
    for name in task["names"]:
        # What the problem's own stub defines is not the answer's to say, but for what is asked.
        if name in found and (name not in namespace or name == task["entry_point"]):
            namespace[name] = checker.decode(found[name])
    for name in task["modules"]:
        namespace.setdefault(name, importlib.import_module(name))
    exec(task["tests"], namespace)
    if task["entry_point"] is not None:
        check: Callable[[Any], None] = namespace["check"]
        check(namespace[task["entry_point"]])
    return "passed"
