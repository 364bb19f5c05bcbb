"""Where a number comes from: the code's commit, the versions of what it ran on, the device."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
_ROOT = pathlib.Path(__file__).parents[2]
_MEASURED = ("cd4lm_jax", "launch", "experiments/configs")


def environment() -> dict[str, Any]:
    """Commit, date, device and versions, as results and evaluations hold them."""
    return {
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": device(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what numbers depend on; of libtpu, the compiler of plans, where it is installed."""
    found = {"python": platform.python_version()}
    found |= {package: importlib.metadata.version(package) for package in _PACKAGES}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["libtpu"] = importlib.metadata.version("libtpu")
    return found


def device() -> str:
    """How many devices of which kind, and the machine's architecture."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind} ({platform.machine()})"


@functools.cache
def commit() -> str:
    """The short commit of this code, marked `+changes` where the tree holds others beside it.

    `unknown` where the code is in no checkout of its own: of an installed package, the folder
    around it may be anybody's repository.
    """
    if not _git("ls-files", "cd4lm_jax/__init__.py"):
        return "unknown"
    changed = _git("status", "--porcelain", "--", *_MEASURED)
    return _git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")


def _git(*words: str) -> str:
    """What git says, nothing where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *words], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()
