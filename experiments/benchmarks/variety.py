"""What distillation costs in variety: several answers to one question, drawn at a temperature.

    python -m experiments.benchmarks.variety

After `make demo`, whose students it reads. Every model answers the first 200 test problems of
gsm_mini eight times by CAD at 0.9, tokens drawn at temperature 0.7. Metrics of each model:
`pass1_*`, the share of right answers; `pass8_*`, the share of problems with a right answer among
the eight; `distinct_*`, how many of the eight texts differ, the mean over problems.
Hardware and time: two CPU cores, ten minutes.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from absl import app, flags

import cd4lm_jax as cd
from cd4lm_jax.data import benchmarks
from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.evaluation.runs.run import score_numbers
from cd4lm_jax.evaluation.sweep import SweepConfig
from cd4lm_jax.evaluation.tasks.registry import GSM_MINI
from cd4lm_jax.language_model import LanguageModel
from experiments.benchmarks import results
from experiments.configs import gsm_mini_eval

DRAWS, PROBLEMS = 8, 200
DECODE = dataclasses.replace(
    GSM_MINI, rule=cd.ConfidenceAdaptive(threshold=0.9), temperature=0.7, batch_size=32
)
_RUNS = flags.DEFINE_string("runs", ".", "Folder in which the demo ran.")


def variety(model: LanguageModel, problems: list[Problem]) -> dict[str, float]:
    """The three numbers of a model, and its passes a problem."""
    # Eight rows of one problem: what is drawn follows from a row's place in the list.
    asked = [problem for problem in problems for _ in range(DRAWS)]
    decoded = cd.decode(model, [problem["question"] for problem in asked], config=DECODE)
    right = score_numbers(decoded.text, asked).reshape(-1, DRAWS)
    texts = [decoded.text[start : start + DRAWS] for start in range(0, len(asked), DRAWS)]
    return {
        "pass1": float(right.mean()),
        "pass8": float(right.any(axis=1).mean()),
        "distinct": float(np.mean([len(set(drawn)) for drawn in texts])),
        "passes": float(decoded.nfe.mean()),
    }


def main(argv: list[str]) -> None:
    """Decodes, counts, writes."""
    del argv
    config: SweepConfig = gsm_mini_eval.get_config()
    folders = {"teacher": config.teacher, "student": config.student, "best": config.best or ""}
    problems = benchmarks.word_problems(config.source, "test")[:PROBLEMS]
    metrics: dict[str, float] = {}
    for who, folder in folders.items():
        place = folder if who == "teacher" else f"{_RUNS.value}/{folder}"
        found = variety(cd.load(place), problems)
        print(who, "  ".join(f"{name} {value:.3f}" for name, value in found.items()))
        metrics |= {f"{name}_{who}": value for name, value in found.items()}
    settings = {"problems": PROBLEMS, "draws": DRAWS, "decode": DECODE.label}
    print(results.write("variety", metrics, **settings))


if __name__ == "__main__":
    app.run(main)
