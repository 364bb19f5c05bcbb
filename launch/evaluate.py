"""Compares a teacher and its student over commit rules and thresholds; table and report.

python -m launch.evaluate --config=experiments/configs/gsm_mini_eval.py
"""

from __future__ import annotations

from cd4lm_jax.evaluation.sweep import SweepConfig, sweep
from cd4lm_jax.evaluation.table import print_table
from launch import common


def main(config: SweepConfig) -> None:
    """Decodes, prints the table, says where the report is."""
    summary = sweep(config)
    print_table(summary["rows"], chosen=summary["chosen"])
    for note in summary["notes"]:
        print(note)
    print(f"report: {config.output}/report.html")


if __name__ == "__main__":
    common.run(main, SweepConfig)
