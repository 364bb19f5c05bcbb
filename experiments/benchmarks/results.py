"""How a benchmark measures and what it leaves behind."""

from __future__ import annotations

import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from cd4lm_jax.runtime import files, provenance

FOLDER = pathlib.Path("experiments/results")


def seconds(call: Callable[[], Any], *, repeats: int = 7) -> list[float]:
    """Wall clock of each of `repeats` calls, after one that compiles and warms up."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return times


def spread(values: list[float]) -> dict[str, float]:
    """Least, median and greatest of repeated measurements."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def write(name: str, metrics: Mapping[str, float], **details: Any) -> pathlib.Path:
    """Writes `experiments/results/NAME.json`.

    Args:
        name: of the benchmark; stable.
        metrics: what was measured, medians; what was not is left out, never zero.
        details: spreads, settings and tables beside the metrics.
    """
    result = {
        "command": " ".join(["python -m", _module(name), *sys.argv[1:]]),
        **provenance.environment(),
        "metrics": dict(metrics),
        **details,
    }
    path = FOLDER / f"{name}.json"
    files.write_text(path, json.dumps(result, indent=2, allow_nan=False) + "\n")
    return path


def _module(name: str) -> str:
    """The benchmark that runs: of its name, or one that writes several files."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec is not None else f"experiments.benchmarks.{name}"
