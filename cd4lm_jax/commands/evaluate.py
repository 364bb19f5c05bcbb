r"""Evaluates: teacher against student over commit rules, or a model on a benchmark.

    cd4lm evaluate --config=gsm_mini_eval
    cd4lm evaluate --config=gsm8k_eval \
        --config.model=DIR --config.source=gsm8k_test.jsonl --config.output=runs/gsm8k

Prints a table; the output folder holds every answer with its passes, a summary and a report. An
evaluation that was interrupted goes on where it was with the same command.
"""

from __future__ import annotations

from typing import Any, NoReturn

from absl import flags

from cd4lm_jax.commands import common
from cd4lm_jax.evaluation import output
from cd4lm_jax.evaluation.benchmark import BenchmarkConfig, benchmark
from cd4lm_jax.evaluation.output import EvaluationConfig
from cd4lm_jax.evaluation.report.table import print_table
from cd4lm_jax.evaluation.sweep import SweepConfig, sweep
from cd4lm_jax.runtime import devices, interrupt

_ALLOW_CODE = flags.DEFINE_bool(
    "allow_code_execution",
    False,
    "Run, in a sandbox, what a model wrote, for tasks that judge code by its tests.",
)


def main(config: EvaluationConfig) -> None:
    """Decodes, prints the table, says where the report is."""
    devices.announce(dtype=getattr(config, "dtype", "float32"))
    kept = f"stopped; what was answered is in {config.output}, the same command goes on"
    with interrupt.leaving_at_once(kept):
        summary = _evaluate(config)
        print_table(summary["rows"], chosen=summary["chosen"])
        for sentence in (summary["judged"], *summary["notes"], output.overhead(summary)):
            if sentence:
                print(sentence)
        print(f"report: {config.output}/report.html")


def _evaluate(config: EvaluationConfig) -> dict[str, Any]:
    match config:
        case SweepConfig():
            return sweep(config)
        case BenchmarkConfig():
            return benchmark(config, allow_code_execution=_ALLOW_CODE.value)
    raise common.UsageError("get_config() must return a SweepConfig or a BenchmarkConfig")


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main, EvaluationConfig)
