"""Kills a gsm_mini run 20 times and compares what comes of it with an uninterrupted run.

    python -m tests.soak_crash

Not collected by pytest: it takes about ten minutes. Metrics: `kills`, `recovered` (kills
after which the next start went on without losing a complete checkpoint) and `bit_exact` (1 if
every run ended with exactly the uninterrupted run's parameters).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tempfile
import time

from absl import app, flags, logging

from cd4lm_jax.data.sources import open_source
from cd4lm_jax.distillation.config import TrainConfig
from experiments.benchmarks import results
from experiments.configs import gsm_mini
from tests import crashes

_KILLS = flags.DEFINE_integer("kills", 20, "How often the run is killed.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments of the kills.")


def soak_config(folder: pathlib.Path) -> TrainConfig:
    """The demo's distillation, a few steps of it, judged by a few of its validation problems."""
    demo = gsm_mini.get_config()
    validation = demo.validation
    problems = open_source(validation.source, validation.split)
    file = folder / "validation.jsonl"
    file.write_text("".join(json.dumps(problems[index]) + "\n" for index in range(8)))
    return dataclasses.replace(
        demo,
        steps=24,
        eval_every=8,
        save_every=2,
        data=dataclasses.replace(demo.data, batch_size=4),
        validation=dataclasses.replace(validation, source=str(file), batch_size=8),
    )


def _uninterrupted(config: TrainConfig, folder: pathlib.Path) -> float:
    """Runs from start to end; returns its seconds."""
    began = time.monotonic()
    process = crashes.start(config, folder)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the uninterrupted run failed: {errors}")
    return time.monotonic() - began


def main(argv: list[str]) -> None:
    """Runs once undisturbed, then with kills; writes the result."""
    del argv
    logging.set_verbosity(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        config = soak_config(folder)
        _uninterrupted(dataclasses.replace(config, output=str(folder / "first")), folder)
        # Once more, with what was compiled for the first: so fast are the runs that are killed.
        whole = dataclasses.replace(config, output=str(folder / "whole"))
        seconds = _uninterrupted(whole, folder)
        print(f"uninterrupted: {seconds:.1f} s", flush=True)
        outcome = crashes.kill_repeatedly(
            config,
            folder,
            kills=_KILLS.value,
            expected=crashes.exported(whole),
            seconds=seconds,
            seed=_SEED.value,
        )
    metrics = {
        "kills": outcome.kills,
        "recovered": outcome.recovered,
        "bit_exact": int(outcome.bit_exact),
    }
    for metric, value in metrics.items():
        print(f"{metric:10} {value}")
    path = results.write(
        "crash_soak",
        metrics,
        command="python -m tests.soak_crash",
        runs_finished=outcome.finished,
        uninterrupted_seconds=round(seconds, 1),
        seconds_of_kills=outcome.at,
        checkpoint_at_kills=outcome.latest,
    )
    print(path)


if __name__ == "__main__":
    app.run(main)
