"""Ablations: trained once a seed, decoded with CAD over thresholds, compared in passes.

What is trained or decoded already is left as it is, so a benchmark continues where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from absl import flags

from cd4lm_jax.corruption.masking import DiffusionMasks
from cd4lm_jax.data.conversations import Example
from cd4lm_jax.data.sources import open_source
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.curriculum import LambdaCurriculum
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.trainer import train
from cd4lm_jax.evaluation.runs.run import execute
from cd4lm_jax.evaluation.statistics import frontier
from cd4lm_jax.evaluation.sweep import THRESHOLDS, SweepConfig
from cd4lm_jax.language_model import LanguageModel, load
from cd4lm_jax.runtime import files
from experiments.configs import gsm_mini, gsm_mini_eval

SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each ablation.", lower_bound=1)
RUNS = flags.DEFINE_string("runs_folder", "runs/ablations", "Folder of the runs of all ablations.")

Change = Callable[[TrainConfig], TrainConfig]
"""What makes an ablation of the demo's distillation."""


class Sweep(NamedTuple):
    """Decodes of one ablation, `[seeds, thresholds, problems]` each.

    Attributes:
        correct: bool, right answers.
        nfe: int, forward passes.
    """

    correct: npt.NDArray[np.bool_]
    nfe: npt.NDArray[np.int32]

    @property
    def points(self) -> list[frontier.Point]:
        """One point a threshold, averaged over seeds and problems."""
        accuracy, passes = self.correct.mean(axis=(0, 2)), self.nfe.mean(axis=(0, 2))
        return [
            frontier.Point(name=str(i), accuracy=float(a), nfe=float(n))
            for i, (a, n) in enumerate(zip(accuracy, passes, strict=True))
        ]

    @property
    def highest(self) -> float:
        """The highest accuracy of any threshold."""
        return max(point.accuracy for point in self.points)

    @property
    def by_seed(self) -> list[list[list[float]]]:
        """Accuracy and mean passes of every threshold, seed by seed."""
        pairs = np.stack([self.correct.mean(axis=2), self.nfe.mean(axis=2)], axis=-1)
        return pairs.tolist()


class Comparison(NamedTuple):
    """Ablations at one accuracy.

    Attributes:
        passes: mean passes of every ablation that reaches it.
        control: the control with the fewest, None where none reaches it.
    """

    passes: dict[str, float]
    control: str | None


def run(name: str, change: Change, seed: int, folder: pathlib.Path) -> TrainConfig:
    """An ablation's run with this seed, its last step exported.

    Losses of different objectives do not compare, so none may select a step.
    """
    config = change(gsm_mini.get_config())
    return dataclasses.replace(
        config,
        output=str(folder / f"{name}_{seed}"),
        seed=seed,
        data=dataclasses.replace(config.data, seed=seed),
        eval_every=config.steps,
    )


def dscd(config: TrainConfig) -> TrainConfig:
    """The demo's own recipe."""
    return config


def text_alone(config: TrainConfig) -> TrainConfig:
    """The same without a teacher: cross-entropy, lambda 0."""
    curriculum = LambdaCurriculum(initial=0.0, final=0.0)
    return dataclasses.replace(config, teacher=None, average=None, curriculum=curriculum)


def diffusion(config: TrainConfig) -> TrainConfig:
    """The same text by LLaDA's own loss."""
    masks = DiffusionMasks(weighting="elbo")
    return dataclasses.replace(config, teacher=None, corruption=masks, objective=Objective())


CONTROLS: dict[str, Change] = {"cross_entropy": text_alone, "diffusion": diffusion}


def eval_config() -> SweepConfig:
    """The demo's lengths and problems, more thresholds at both ends."""
    return dataclasses.replace(gsm_mini_eval.get_config(), thresholds=(0.3, 0.4, *THRESHOLDS, 0.99))


def problems(split: str) -> list[Example]:
    """The first problems of a split, as many as the settings say."""
    config = eval_config()
    source = open_source(config.source, split)
    return [source[index] for index in range(config.problems)]


def decoded(model: LanguageModel, split: str, folder: pathlib.Path) -> Sweep:
    """A model's sweep (one seed) over a split's problems, kept in `folder`."""
    config, asked = eval_config(), problems(split)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for threshold in config.thresholds:
        kept = folder / f"{split}_{threshold}.npz"
        if not kept.exists():
            rule = ConfidenceAdaptive(threshold=threshold)
            run = execute(model, "", asked, dataclasses.replace(config.decode, rule=rule))
            np.savez(kept, correct=run.correct, nfe=run.trajectory.nfe)
        saved = np.load(kept)
        found.append((saved["correct"], saved["nfe"]))
    return Sweep(*(np.stack(parts)[None] for parts in zip(*found, strict=True)))


def teacher(split: str) -> Sweep:
    """The teacher's sweep."""
    return decoded(load(gsm_mini.TEACHER), split, _teacher_folder())


def teacher_accuracy(split: str) -> float:
    """The share that the teacher gets right at one token a pass, kept as a sweep is."""
    kept = _teacher_folder() / f"fixed_{split}.json"
    if not kept.exists():
        fixed = eval_config().decode.fixed()
        run = execute(load(gsm_mini.TEACHER), "teacher", problems(split), fixed)
        files.write_text(kept, json.dumps({"accuracy": run.accuracy}) + "\n")
    return float(json.loads(kept.read_text())["accuracy"])


def _teacher_folder() -> pathlib.Path:
    return pathlib.Path(RUNS.value) / "teacher"


def trained(name: str, change: Change, split: str, seeds: int) -> Sweep:
    """An ablation's sweep; missing runs are trained, and keep it in their folders."""
    sweeps = []
    for seed in range(seeds):
        config = run(name, change, seed, pathlib.Path(RUNS.value))
        sweeps.append(decoded(load(train(config).folder), split, pathlib.Path(config.output)))
    return Sweep(*(np.concatenate(parts) for parts in zip(*sweeps, strict=True)))


def compare(sweeps: Mapping[str, Sweep], controls: tuple[str, ...], accuracy: float) -> Comparison:
    """Passes of all ablations at an accuracy."""
    found = {name: frontier.passes_at_accuracy(s.points, accuracy) for name, s in sweeps.items()}
    passes = {name: value for name, value in found.items() if value is not None}
    reached = [control for control in controls if control in passes]
    return Comparison(passes, min(reached, key=passes.__getitem__, default=None))


def ratio(ablation: Sweep, control: Sweep, accuracy: float) -> frontier.PassesRatio | None:
    """Passes of an ablation over a control's at an accuracy, with its interval over problems."""
    return frontier.passes_ratio_interval(*ablation, *control, accuracy=accuracy)
