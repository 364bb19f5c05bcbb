r"""Evaluates: teacher against student over commit rules, or a model on a benchmark.

    cd4lm evaluate --config=gsm_mini_eval
    cd4lm evaluate --config=gsm8k_eval \
        --config.model=DIR --config.source=gsm8k_test.jsonl --config.output=runs/gsm8k

Prints a table; the output folder holds every answer with its passes, a summary and a report. An
evaluation that was interrupted continues with the same command. Several hosts that share the output
folder share the problems, a chunk at a time.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NoReturn

from absl import flags

from cd4lm_jax.commands import common, compilation, hosts, placement_flags
from cd4lm_jax.evaluation import output
from cd4lm_jax.evaluation.benchmark import BenchmarkConfig, benchmark
from cd4lm_jax.evaluation.output import EvaluationConfig
from cd4lm_jax.evaluation.report.table import percent, print_table
from cd4lm_jax.evaluation.sweep import SweepConfig, sweep
from cd4lm_jax.runtime import cluster, interrupt

_ALLOW_CODE = flags.DEFINE_bool(
    "allow_code_execution",
    False,
    "Run, in a sandbox, what a model wrote, for tasks that judge code by its tests.",
)


def main(config: EvaluationConfig, *, brief: bool = False) -> None:
    """Decodes, prints the table, says where the report is.

    Args:
        config: of the evaluation.
        brief: print the baseline, its most tokens a pass, and what every model does under the rule
            of the chosen run; the report has all.
    """
    placement = placement_flags.chosen(config.placement)
    config = dataclasses.replace(config, placement=placement)
    kept = f"stopped; what was answered is in {config.output}, the same command continues"
    with cluster.joined(hosts.described()):
        compilation.keep()
        placement_flags.announce(_model(config), placement)
        with interrupt.leaving_at_once(kept):
            summary = _evaluate(config)
            if cluster.is_main():
                (_show_briefly if brief else _show)(config, summary)


def _show_briefly(config: EvaluationConfig, summary: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in summary["rows"]}
    baseline, chosen = rows[summary["baseline"]], rows.get(summary["chosen"])
    fixed = [row for row in rows.values() if row["model"] == baseline["model"]]
    fixed = [row for row in fixed if row["rule"].startswith("fixed:")]
    beside = [row for row in rows.values() if chosen and row["rule"] == chosen["rule"]]
    kept = {row["name"]: row for row in (baseline, fixed[-1], *beside)}
    print_table([*kept.values()], chosen=summary["chosen"])
    if chosen:
        print(
            f"{chosen['name']} answers {percent(chosen['accuracy'])} of {chosen['problems']} test "
            f"problems right in {chosen['nfe']:.1f} passes each; {baseline['name']}, one token a "
            f"pass, {percent(baseline['accuracy'])} in {baseline['nfe']:.1f}."
        )
    else:
        print(summary["notes"][0])
    print(f"all {len(rows)} rows, and every decode to replay: {config.output}/report.html")


def _show(config: EvaluationConfig, summary: dict[str, Any]) -> None:
    print_table(summary["rows"], chosen=summary["chosen"])
    for sentence in (summary["judged"], *summary["notes"], output.overhead(summary)):
        if sentence:
            print(sentence)
    print(f"report: {config.output}/report.html")


def _model(config: EvaluationConfig) -> str:
    """The folder of the model that is evaluated; of several the first."""
    match config:
        case SweepConfig():
            return config.teacher
        case BenchmarkConfig():
            return config.model
    raise common.UsageError("get_config() must return a SweepConfig or a BenchmarkConfig")


def _evaluate(config: EvaluationConfig) -> dict[str, Any]:
    if isinstance(config, SweepConfig):
        return sweep(config)
    assert isinstance(config, BenchmarkConfig)  # `_model` has checked
    return benchmark(config, allow_code_execution=_ALLOW_CODE.value)


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main, EvaluationConfig)
