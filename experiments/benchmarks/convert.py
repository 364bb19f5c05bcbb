"""Converting a synthetic LLaDA-8B there and back: time beside a plain copy, and peak memory.

    python -m experiments.benchmarks.convert --folder=runs/convert

Random bfloat16 weights in LLaDA-8B's own layout, six shards, 16 GB, go to orbax and back by
`cd4lm convert`, each way in a process of its own; it takes 50 GB of disk, which are freed again.

Metrics, for `to_orbax` and `to_hugging_face`: `seconds_*`, `gb_per_second_*` (of weights),
`copy_ratio_*` (seconds over those of a plain copy of the shards, flushed, in the same run),
`peak_gib_*` (VmHWM) and `peak_above_largest_gib_*` (over the largest tensor, 0.97 GiB; the goal
is at most 2). `bit_exact` is 1 where all tensors come back with the digest they left with.

The floor is the copy: either way reads and writes all bytes once. The page cache is emptied of
what is read before each measurement.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

from cd4lm_jax.checkpoints.huggingface import Checkpoint
from cd4lm_jax.models.config import llada_8b
from experiments.benchmarks import results
from experiments.benchmarks.synthetic import SHARDS, synthesize

GIB = 2**30

_FOLDER = flags.DEFINE_string("folder", "runs/convert", "Where to work; what is made goes again.")
_LAYERS = flags.DEFINE_integer("layers", 32, "Of the model; fewer to try the benchmark itself.")


def digests_of(folder: pathlib.Path) -> dict[str, str]:
    """Each tensor's digest, read a chunk at a time."""
    checkpoint = Checkpoint.open(folder)
    found = {}
    for tensor in checkpoint.tensors:
        seen = hashlib.blake2b()
        for rows in tensor.chunks():
            chunk = checkpoint.stored[tensor.name].rows(rows.start, rows.stop)
            seen.update(chunk.view(np.uint8).data)
        found[tensor.name] = seen.hexdigest()
    return found


def forget(folder: pathlib.Path) -> None:
    """Empties the page cache of a folder's files."""
    os.sync()
    for file in filter(pathlib.Path.is_file, folder.rglob("*")):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def copy(source: pathlib.Path, target: pathlib.Path) -> float:
    """Seconds that a copy of the shards takes, until it is on the disk."""
    forget(source)
    target.mkdir()
    start = time.perf_counter()
    for file in source.glob("*.safetensors"):
        shutil.copyfile(file, target / file.name)
        with (target / file.name).open("rb") as copied:
            os.fsync(copied)
    return time.perf_counter() - start


def convert(source: pathlib.Path, target: pathlib.Path) -> tuple[float, float]:
    """Seconds and GiB at most that `cd4lm convert` takes."""
    forget(source)
    command = ["-m", "launch.convert", f"--source={source}", f"--target={target}"]
    start, peak = time.perf_counter(), 0
    with subprocess.Popen([sys.executable, *command]) as process:
        while process.poll() is None:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            if found := re.search(r"VmHWM:\s*(\d+) kB", status):
                peak = int(found[1])
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - start, peak * 1024 / GIB


def main(argv: list[str]) -> None:
    """Makes the model, copies and converts it, compares and writes the result."""
    del argv
    folder = pathlib.Path(_FOLDER.value)
    config = dataclasses.replace(llada_8b(), num_layers=_LAYERS.value)
    weights = 2 * config.num_parameters
    largest = 2 * config.vocab_size * config.embed_dim / GIB
    source, own, back = (folder / name for name in ("source", "own", "back"))
    try:
        digests = synthesize(source, config)
        copied = copy(source, folder / "copy")
        shutil.rmtree(folder / "copy")
        metrics = {"copy_seconds": copied, "copy_gb_per_second": weights / copied / 1e9}
        directions = {"to_orbax": (source, own), "to_hugging_face": (own, back)}
        for name, (origin, target) in directions.items():
            seconds, peak = convert(origin, target)
            metrics |= {
                f"seconds_{name}": seconds,
                f"gb_per_second_{name}": weights / seconds / 1e9,
                f"copy_ratio_{name}": seconds / copied,
                f"peak_gib_{name}": peak,
                f"peak_above_largest_gib_{name}": peak - largest,
            }
        metrics["bit_exact"] = float(digests_of(back) == digests)
    finally:
        for made in (source, folder / "copy", own, back):
            shutil.rmtree(made, ignore_errors=True)
    for name, value in metrics.items():
        print(f"{name:40} {value:10.4g}")
    sizes = {"gigabytes": weights / 1e9, "tensors": len(digests), "largest_gib": largest}
    print(results.write("convert", metrics, sizes=sizes | {"shards": SHARDS}))


if __name__ == "__main__":
    app.run(main)
