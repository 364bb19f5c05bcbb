"""Run by test_meshes.py in a process with eight virtual devices: prints what it found as JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import cd4lm_jax as cd
from cd4lm_jax.decoding import batching, loop, queues
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.planning import costs, decoding
from cd4lm_jax.runtime.mesh import make_mesh
from tests.decoding import recordings

GOLDEN = pathlib.Path("tests/golden")
FOLDER = str(GOLDEN / "llada_tiny")
MESHES = {
    "data": cd.MeshConfig(data=8),
    "tensor": cd.MeshConfig(data=4, tensor=2),
    "all": cd.MeshConfig(data=2, fsdp=2, tensor=2),
}
MODES: dict[str, dict[str, Any]] = {
    "none": {},
    "prefix": {"cache": "prefix"},
    "dual": {"cache": "dual"},
    "dual, refreshed": {"cache": "dual", "refresh_interval": 2, "refresh_rows": 2},
    "guided": {"cache": "dual", "cfg_scale": 0.5},
    "int8": {"cache": "dual", "cache_dtype": "int8"},
    "drawn": {"temperature": 0.7, "top_k": 20, "top_p": 0.9},
}
# Of one bucket, more than there are slots, so that slots are handed over.
PROMPTS = [[7 * row + 3, *range(row, row + 4 + row % 5)] for row in range(11)]
SHORT: dict[str, Any] = {"gen_length": 16, "block_length": 8}


def agrees(one: Trajectory, other: Trajectory) -> list[Any]:
    """Whether tokens and passes are the same; how far the confidence is off."""
    same = all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("tokens", "committed_at", "nfe", "length")
    )
    return [same, float(np.abs(one.confidence - other.confidence).max())]


def streamed(model: cd.LanguageModel, **options: Any) -> Trajectory:
    """What the updates of a stream amount to."""
    whole = cd.decode(model, PROMPTS, **options).trajectory
    tokens, passes = np.full_like(whole.tokens, -1), np.zeros_like(whole.committed_at)
    confidence, nfe = np.zeros_like(whole.confidence), np.zeros_like(whole.nfe)
    for update in cd.decode_stream(model, PROMPTS, **options):
        place = (update.row, update.position)
        tokens[place], passes[place] = update.tokens, update.committed_at
        confidence[place] = update.confidence
        nfe[update.finished] = update.nfe
    left = passes == 0
    return dataclasses.replace(
        whole,
        tokens=np.where(left, whole.tokens, tokens),
        committed_at=passes,
        confidence=confidence,
        nfe=nfe,
    )


def golden(mesh: str) -> dict[str, Any]:
    """The recordings that a mesh decodes to other tokens or in other passes."""
    from tests.decoding.test_golden import assert_recorded, decode

    cases = recordings.load(GOLDEN)
    model, wrong, right = cd.load(FOLDER, mesh=MESHES[mesh]), [], []
    for names in recordings.CAD + recordings.FIXED:
        found = decode(model, cases, names, propose_mask=True)
        for row, name in enumerate(names):
            case = cases[name]
            try:
                assert_recorded(found, row, case)
                assert found.nfe[row] == case.get("nfe", case.get("steps"))
                right.append(name)
            except AssertionError:
                wrong.append(name)
    return {"right": right, "wrong": wrong}


def programs() -> dict[str, Any]:
    """For each mesh: is the plan's program the command's, and what of vocabulary size moves."""
    config = cd.DecodeConfig(rule=cd.ConfidenceAdaptive(), **SHORT, cache="dual", cfg_scale=0.5)
    found = {}
    for name, mesh in MESHES.items():
        model = cd.load(FOLDER, mesh=mesh).transformer
        lowered: list[Any] = []

        def lower(*args: Any, into: list[Any] = lowered, **kwargs: Any) -> Any:
            into.append(loop.run.lower(*args, **kwargs))
            return loop.run(*args, **kwargs)

        with swapped(batching, "whole", batching.whole, lower):
            batching.decode(model, PROMPTS[:8], config)
        placement = cd.Placement(dtype="float32", mesh=mesh)
        shapes = decoding.shapes(model.config, placement, made := make_mesh(mesh))
        waiting = decoding.queue(made, 8, queues.bucket(8) + 16, 16)
        planned = batching.whole(loop.run.lower, shapes, waiting, config)
        text = str(planned.compile().as_text())
        moved = decoding.of_vocabulary(costs.cost(text), model.config.vocab_size, mesh.tensor)
        found[name] = {
            "same": [planned.as_text() == each.as_text() for each in lowered],
            "moved": [f"{each.kind} {each.shapes}" for each in moved],
        }
    return found


@contextlib.contextmanager
def swapped(module: Any, name: str, original: Callable[..., Any], run: Any) -> Any:
    """Within it the one call of the loop goes through `run`."""
    setattr(module, name, lambda _, *args: original(run, *args))
    try:
        yield
    finally:
        setattr(module, name, original)


def main() -> None:
    if sys.argv[1] == "golden":
        found: dict[str, Any] = golden(sys.argv[2])
    elif sys.argv[1] == "programs":
        found = programs()
    else:
        one = cd.load(FOLDER)
        models = {name: cd.load(FOLDER, mesh=mesh) for name, mesh in MESHES.items()}
        found = {}
        for mode, options in MODES.items():
            # As many rows on the device as each device of `data` has.
            alone = cd.decode(one, PROMPTS, batch_size=1, **SHORT, **options).trajectory
            for name, model in models.items():
                other = cd.decode(model, PROMPTS, **SHORT, **options).trajectory
                found[f"{name} {mode}"] = agrees(alone, other)
        for name, model in models.items():
            found[f"{name} streamed"] = agrees(alone_streamed(one), streamed(model, **SHORT))
    print(json.dumps(found))


def alone_streamed(model: cd.LanguageModel) -> Trajectory:
    return cd.decode(model, PROMPTS, batch_size=1, **SHORT).trajectory


if __name__ == "__main__":
    main()
