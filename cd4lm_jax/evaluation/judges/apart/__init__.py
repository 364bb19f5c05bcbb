"""Judges an answer with its tests in another process than its code, each in a sandbox of its own.

The code of an answer meets neither the tests nor an expected value nor the verdict: it is called,
and returns plain data.
"""

from __future__ import annotations

import functools
import pathlib
import secrets
import socket
from collections.abc import Sequence
from typing import Any

from cd4lm_jax.evaluation.judges import sandbox

# For the tests, beside the answer's own.
_CHECKER_MEMORY = 512 << 20
# Processor time decides. A busy machine gives a program a share of a processor, hence the factor;
# it bounds what sleeps.
_WALL_FACTOR, _SPARE_SECONDS = 4, 5.0
# Gives a program the modules of this package, which is not in its sandbox.
_PROGRAM = """
import importlib, sys, types
package = {package!r}
for end in [place for place, sign in enumerate(package) if sign == "."] + [len(package)]:
    parent = sys.modules[package[:end]] = types.ModuleType(package[:end])
    parent.__path__ = []
for name, source in {sources!r}.items():
    module = types.ModuleType(package + "." + name)
    sys.modules[module.__name__] = module
    setattr(parent, name, module)
    exec(compile(source, module.__name__, "exec"), module.__dict__)
module.main(__channel__, {task!r})
"""


def passes(
    program: str,
    tests: str,
    *,
    names: Sequence[str],
    modules: Sequence[str] = (),
    imports: str = "",
    stub: str = "",
    entry_point: str | None = None,
    seconds: float,
) -> bool:
    """Whether a program passes tests.

    Args:
        program: what a model wrote, ready to run.
        tests: code that raises where the program is wrong.
        names: what the tests use of the program.
        modules: of the standard library, which the tests use without importing them.
        imports: statements of the tests that the program may rely on.
        stub: code of the problem that the tests may rely on; its names go before the program's.
        entry_point: what `check`, which the tests define, is called with; None where they stand
            for themselves.
        seconds: of processor time for the program, and again for the tests.

    Raises:
        SandboxError: this machine cannot confine it.
    """
    # What a test prints by chance does not begin with this.
    token = secrets.token_hex(16)
    answer = {"program": program, "imports": imports, "names": list(names)}
    check = {
        "tests": tests,
        "stub": stub,
        "entry_point": entry_point,
        "names": list(names),
        "modules": list(modules),
        "seconds": _WALL_FACTOR * seconds,
        "token": token,
    }
    limits = sandbox.Limits(
        wall_seconds=_WALL_FACTOR * seconds + _SPARE_SECONDS, cpu_seconds=int(seconds) + 2
    )
    own = sandbox.Limits(
        wall_seconds=limits.wall_seconds,
        cpu_seconds=limits.cpu_seconds,
        memory=_CHECKER_MEMORY,
        threads=1,
    )
    ends = socket.socketpair()
    with ends[0], ends[1]:
        candidate = sandbox.Running(_bundle("candidate", answer), limits, ends[0].fileno())
        with (
            candidate,
            sandbox.Running(_bundle("checker", check), own, ends[1].fileno()) as checker,
        ):
            for end in ends:
                end.close()
            candidate.ready()
            outcome = checker.wait()
    return f"{token}passed" in outcome.stdout


def _bundle(name: str, task: dict[str, Any]) -> str:
    return _PROGRAM.format(package=__name__, sources=_sources(name), task=task)


@functools.cache
def _sources(name: str) -> dict[str, str]:
    """The modules that a process needs, its own last."""
    folder = pathlib.Path(__file__).parent
    return {module: (folder / f"{module}.py").read_text() for module in ("wire", "peer", name)}
