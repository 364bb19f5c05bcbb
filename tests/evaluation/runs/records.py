"""An evaluation's problems.jsonl as the engine writes it, from a run of ours."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING, Any

from cd4lm_jax.data.conversations import Example
from cd4lm_jax.decoding.trajectory import POSITION_TYPES

if TYPE_CHECKING:
    from cd4lm_jax.evaluation.runs.run import Run


def records(run: Run, problems: list[Example]) -> list[dict[str, Any]]:
    """One record a problem, in the problems' order."""
    return [
        {
            "id": f"test-{row}",
            "prompt": problem["question"],
            "reference": problem["answer"],
            "output": run.outputs[row],
            "correct": bool(run.correct[row]),
            "nfe": decode["nfe"],
            "length": decode["length"],
            "trajectory": {name: decode[name] for name in POSITION_TYPES},
        }
        for row, (problem, decode) in enumerate(
            zip(problems, run.trajectory.to_json(), strict=True)
        )
    ]


def write(path: pathlib.Path, lines: list[dict[str, Any]]) -> pathlib.Path:
    """Writes records to a problems.jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
