r"""What fewer bits cost a model of gsm_mini, in right answers and in tokens that differ.

    python -m experiments.benchmarks.quantization --student=runs/demo/student/model

The bundled teacher and, where a folder of it is given, its student (`cd4lm demo` trains one) answer
the same test problems at one token a pass and under CAD at 0.9, in float32, in bfloat16 and with
quantised weights (the rest in float32). A million parameters with 128 inputs to a kernel lose more
by rounding than billions do. Each model's results are written as they come. Metrics:

int8_points_lost    percentage points that int8 loses against float32, the most of all runs
int4_points_lost    likewise of int4; bfloat16_points_lost, of bfloat16
int8_bytes_ratio    bytes of the weights in int8 over those in bfloat16; int4_bytes_ratio likewise
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import cd4lm_jax as cd
from cd4lm_jax import bundled
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.evaluation.runs.run import execute
from cd4lm_jax.evaluation.tasks import registry
from cd4lm_jax.language_model import LanguageModel
from cd4lm_jax.models.quantization import quantize
from cd4lm_jax.models.transformer import Transformer
from experiments.benchmarks import results

_STUDENT = flags.DEFINE_string("student", None, "Model folder of a student; without it, none.")
_PROBLEMS = flags.DEFINE_integer("problems", 500, "Test problems.", lower_bound=1)
_PRECISIONS = flags.DEFINE_list("precisions", ["float32", "bfloat16", "int8", "int4"], "Of these.")

RULES: dict[str, DecodeConfig] = {
    "fixed:1": registry.GSM_MINI.fixed(),
    "cad:0.9": dataclasses.replace(registry.GSM_MINI, rule=ConfidenceAdaptive(threshold=0.9)),
}


def in_precision(model: LanguageModel, precision: str) -> LanguageModel:
    """A float32 model with its weights in `precision`."""
    transformer: Transformer = model.transformer
    if precision == "bfloat16":
        transformer = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), transformer)
        transformer.execution = dataclasses.replace(transformer.execution, dtype=precision)
    elif precision != "float32":
        transformer = quantize(transformer, precision)  # type: ignore[arg-type]
    return dataclasses.replace(model, transformer=transformer)


def weight_bytes(model: LanguageModel) -> int:
    """What the parameters take."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(model.transformer))


def measure(folder: str, who: str) -> list[dict[str, Any]]:
    """A row a rule and precision of one model, float32 first."""
    model, task = cd.load(folder), registry.task("gsm_mini")
    problems = task.problems(None, None, _PROBLEMS.value)
    rows = []
    for rule, config in RULES.items():
        reference = None
        for precision in _PRECISIONS.value:
            changed = in_precision(model, precision)
            start = time.perf_counter()
            run = execute(changed, who, problems, config)
            tokens = run.trajectory.tokens
            reference = tokens if reference is None else reference
            rows.append(
                {
                    "model": who,
                    "rule": rule,
                    "precision": precision,
                    "accuracy": run.accuracy,
                    "passes": float(np.mean(run.trajectory.nfe)),
                    "weight_bytes": weight_bytes(changed),
                    "tokens_that_differ": float(np.mean(tokens != reference)),
                }
            )
            took = time.perf_counter() - start
            print(f"{rows[-1]} in {took:.0f} s", flush=True)
    return rows


def metrics_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The worst of all runs, by precision."""
    by = {(row["model"], row["rule"], row["precision"]): row for row in rows}
    found: dict[str, float] = {}
    for precision in _PRECISIONS.value[1:]:
        lost = [
            100 * (by[who, rule, "float32"]["accuracy"] - row["accuracy"])
            for (who, rule, of), row in by.items()
            if of == precision
        ]
        found[f"{precision}_points_lost"] = max(lost)
    for (who, rule, precision), row in by.items():
        if precision in ("int8", "int4"):
            dense = by[who, rule, "bfloat16"]["weight_bytes"]
            found[f"{precision}_bytes_ratio"] = row["weight_bytes"] / dense
    return found


def main(argv: list[str]) -> None:
    """Measures and writes."""
    del argv
    folders = {"student": _STUDENT.value, "teacher": bundled.teacher()}
    rows: list[dict[str, Any]] = []
    for who, folder in folders.items():
        if folder is not None:
            rows += measure(folder, who)
            details = {"rows": rows, "problems": _PROBLEMS.value}
            print(results.write("quantization", metrics_of(rows), **details))


if __name__ == "__main__":
    app.run(main)
