r"""LLaDA-8B's true size on a machine without an accelerator, by the ordinary commands.

    python -m experiments.benchmarks.full_size --folder=runs/full_size

A synthetic checkpoint of 16 GB in bfloat16 (see `synthetic.py`) goes through

    cd4lm convert --quantize=int8
    cd4lm decode     two prompts of 64 token ids, 32 positions generated, 4 a pass, dual cache

each in a process of its own; it takes 25 GB of disk, which are freed again. The folder as it was,
in bfloat16, is also loaded onto a mesh of 4 virtual devices (tensor parallel). Metrics:

convert_peak_gib, decode_peak_gib   memory that was in use at most (VmHWM); goals 2 and 14
convert_seconds                     of the command
load_seconds                        until the quantised model is in memory, checksums included
seconds_per_pass                    of both prompts together, compilation excluded
quantized_gib                       of the new folder
mesh_peak_gib, mesh_load_seconds    of the load onto the mesh; virtual devices share this memory
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from typing import NamedTuple

from absl import app, flags

from cd4lm_jax.models.config import llada_8b
from cd4lm_jax.planning.topology import GIB
from experiments.benchmarks import results
from experiments.benchmarks.synthetic import synthesize

PROMPTS, PROMPT_LENGTH, GEN_LENGTH, STEPS = 2, 64, 32, 8

_FOLDER = flags.DEFINE_string("folder", "runs/full_size", "Where to work; what is made goes again.")
_LAYERS = flags.DEFINE_integer("layers", 32, "Of the model; fewer to try the benchmark itself.")

_LOAD = """
import sys, time
from cd4lm_jax.checkpoints.loading import load_model
start = time.perf_counter()
load_model(sys.argv[1])
print(time.perf_counter() - start)
"""
_DEVICES = 4
_LOAD_ON_MESH = f"""
import sys, time
import cd4lm_jax as cd
start = time.perf_counter()
cd.load(sys.argv[1], dtype="bfloat16", mesh={{"tensor": {_DEVICES}}})
print(time.perf_counter() - start)
"""


class Done(NamedTuple):
    """What a process took and printed."""

    seconds: float
    peak_gib: float
    text: str


def measured(*arguments: str, devices: int = 1) -> Done:
    """Runs Python with these arguments, on so many virtual devices."""
    start, peak = time.perf_counter(), 0
    command = [sys.executable, *arguments]
    flags_of_xla = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags_of_xla}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        while process.poll() is None:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            if found := re.search(r"VmHWM:\s*(\d+) kB", status):
                peak = int(found[1])
            time.sleep(0.1)
        assert process.stdout is not None
        text = process.stdout.read()
    if process.returncode:
        raise SystemExit(process.returncode)
    return Done(time.perf_counter() - start, peak * 1024 / GIB, text)


def main(argv: list[str]) -> None:
    """Makes the model, converts it, decodes and writes the result."""
    del argv
    folder = pathlib.Path(_FOLDER.value)
    config = dataclasses.replace(llada_8b(), num_layers=_LAYERS.value)
    source, small, output = (folder / name for name in ("source", "int8", "answers.jsonl"))
    prompts = folder / "prompts.jsonl"
    try:
        synthesize(source, config)
        print("synthesised", flush=True)
        converted = measured(
            "-m", "launch.convert", f"--source={source}", f"--target={small}", "--quantize=int8"
        )
        spread = measured("-c", _LOAD_ON_MESH, str(source), devices=_DEVICES)
        print(f"loaded on {_DEVICES} devices: {spread}", flush=True)
        shutil.rmtree(source)
        size = sum(file.stat().st_size for file in small.rglob("*") if file.is_file())
        print(f"converted: {converted}", flush=True)
        rows = [
            {"id": row, "prompt_ids": list(range(1000 * row, 1000 * row + PROMPT_LENGTH))}
            for row in range(PROMPTS)
        ]
        prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
        decoded = measured(
            *("-m", "launch.decode", f"--checkpoint={small}", f"--input={prompts}"),
            *(f"--output={output}", f"--gen_length={GEN_LENGTH}", f"--block_length={GEN_LENGTH}"),
            *(f"--rule=fixed(steps={STEPS})", "--cache=dual", f"--batch_size={PROMPTS}"),
        )
        print(f"decoded: {decoded}", flush=True)
        passes = re.search(r"([\d.]+) passes each, ([\d.]+) s", decoded.text)
        assert passes is not None
        loaded = measured("-c", _LOAD, str(small))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    metrics = {
        "convert_peak_gib": converted.peak_gib,
        "convert_seconds": converted.seconds,
        "quantized_gib": size / GIB,
        "decode_peak_gib": decoded.peak_gib,
        "load_seconds": float(loaded.text),
        "seconds_per_pass": float(passes[2]) / float(passes[1]),
        "mesh_peak_gib": spread.peak_gib,
        "mesh_load_seconds": float(spread.text),
    }
    for name, value in metrics.items():
        print(f"{name:20} {value:10.4g}")
    settings = {"layers": config.num_layers, "prompts": PROMPTS, "passes": float(passes[1])}
    settings |= {"prompt_length": PROMPT_LENGTH, "gen_length": GEN_LENGTH}
    print(results.write("full_size", metrics, settings=settings))


if __name__ == "__main__":
    app.run(main)
