"""The process that runs an answer: it defines what the answer defines, and does what is asked.

It knows no tests and no expected value. What runs here may change everything here; what the checker
believes of it is plain data that an honest answer could have returned.
"""

from __future__ import annotations

import contextlib
import copy
import io
import operator
import os
from collections.abc import Callable
from typing import Any

from cd4lm_jax.evaluation.judges.apart import wire
from cd4lm_jax.evaluation.judges.apart.peer import Peer, Reference

_MOST_PRINTED = 1 << 20

OPERATIONS: dict[str, Callable[..., Any]] = {
    "apply": lambda function, keywords, *arguments: function(*arguments, **keywords),
    "get": getattr,
    "set": setattr,
    "delete": delattr,
    "item": operator.getitem,
    "set_item": operator.setitem,
    "delete_item": operator.delitem,
    "iter": iter,
    "next": next,
    "length": len,
    "true": bool,
    "text": str,
    "shown": repr,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "is_instance": isinstance,
    "enter": lambda context: type(context).__enter__(context),
    "exit": lambda context, *error: type(context).__exit__(context, *error),
    "equal": operator.eq,
    "less": operator.lt,
    "less_or_equal": operator.le,
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
}
"""What the checker asks for; comparisons and sums of two of the answer's objects alone."""


class Function(Reference):
    """A function of a test, called in the checker."""

    __slots__ = ()

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """What it returns in the checker."""
        return self._peer.ask("apply", self, keywords, *arguments)


class Printed(io.StringIO):
    """What the answer prints, as far as it is worth sending."""

    _kept = 0

    def write(self, text: str) -> int:
        """Keeps text; no more than `_MOST_PRINTED` characters in all."""
        self._kept += super().write(text[: _MOST_PRINTED - self._kept])
        return len(text)

    def take(self) -> str:
        """What was printed since the last call."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        self._kept = 0
        return text


def main(channel: int, task: dict[str, Any]) -> None:
    """Runs an answer and serves it.

    Args:
        channel: number of the socket to the checker.
        task: `program`, the answer; `imports`, statements that the tests give to it; `names`, what
            the tests use of it.
    """
    leave = os._exit
    try:
        printed = Printed()
        peer = Peer(wire.Channel(channel), "object", OPERATIONS, Function, printed.take)
        namespace: dict[str, Any] = {}
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            exec(task["program"], namespace)
            exec(task["imports"], namespace)
            names = {name: namespace[name] for name in task["names"] if name in namespace}
            peer.channel.send({name: peer.encode(value) for name, value in names.items()})
            peer.serve()
    finally:
        leave(1)
