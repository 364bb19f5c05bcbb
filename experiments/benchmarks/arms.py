"""Arms of a comparison: trained once a seed, decoded with CAD over thresholds, compared in passes.

What is trained or decoded already is left as it is, so a benchmark continues where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from absl import flags

from cd4lm_jax.corruption.masking import Corruption
from cd4lm_jax.data.sources import Example, open_source
from cd4lm_jax.distillation.curriculum import LambdaCurriculum
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.trainer import TrainConfig, train
from cd4lm_jax.evaluation import frontier, runs
from cd4lm_jax.evaluation.sweep import SweepConfig
from cd4lm_jax.language_model import LanguageModel, load
from cd4lm_jax.runtime import files

SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each arm.", lower_bound=1)
RUNS = flags.DEFINE_string("runs_folder", "runs", "Folder of the benchmarks' runs.")


class Sweep(NamedTuple):
    """Decodes of one arm, ``[seeds, thresholds, problems]`` each.

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
    """Arms at one accuracy.

    Attributes:
        passes: mean passes of every arm that reaches it.
        control: the control with the fewest, None where none reaches it.
    """

    passes: dict[str, float]
    control: str | None


def seeded(config: TrainConfig, name: str, seed: int, output: pathlib.Path) -> TrainConfig:
    """An arm's run with this seed, its last step exported whatever its loss.

    Losses of different objectives do not compare, so none may stop or select early.
    """
    return dataclasses.replace(
        config,
        output=str(output / f"{name}_{seed}"),
        seed=seed,
        data=dataclasses.replace(config.data, seed=seed),
        eval_every=config.steps,
    )


def text_alone(config: TrainConfig) -> TrainConfig:
    """The same without a teacher: cross-entropy, lambda 0."""
    curriculum = LambdaCurriculum(initial=0.0, final=0.0)
    return dataclasses.replace(config, teacher=None, average=None, curriculum=curriculum)


def diffusion(config: TrainConfig) -> TrainConfig:
    """The same text by LLaDA's own loss."""
    masks = Corruption(scheme="diffusion", weighting="elbo")
    return dataclasses.replace(config, teacher=None, corruption=masks, objective=Objective())


def problems(config: SweepConfig, split: str) -> list[Example]:
    """The first problems of a split, as many as the settings say."""
    source = open_source(config.source, split)
    return [source[index] for index in range(config.problems)]


def decoded(model: LanguageModel, config: SweepConfig, split: str, cache: pathlib.Path) -> Sweep:
    """A model's sweep (one seed) over a split's problems, kept in ``cache``."""
    if not cache.exists():
        asked = problems(config, split)
        done = [runs.confidence(model, "", asked, config.decode, t) for t in config.thresholds]
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            cache,
            correct=np.stack([run.correct for run in done]),
            nfe=np.stack([run.trajectory.nfe for run in done]),
        )
    saved = np.load(cache)
    return Sweep(saved["correct"][None], saved["nfe"][None])


def teacher_accuracy(config: SweepConfig, split: str, folder: pathlib.Path) -> float:
    """The share that the teacher gets right at one token a pass, kept in ``folder``."""
    kept = folder / f"teacher_fixed_{split}.json"
    if not kept.exists():
        teacher = load(config.teacher)
        run = runs.fixed_step(teacher, "teacher", problems(config, split), config.decode, 1)
        files.write_text(kept, json.dumps({"accuracy": run.accuracy}) + "\n")
    return float(json.loads(kept.read_text())["accuracy"])


def trained(
    configs: list[TrainConfig], config: SweepConfig, split: str, name: str = "sweep"
) -> Sweep:
    """An arm's sweep; its runs are trained where they are missing, and keep it in their folders."""
    sweeps = []
    for run in configs:
        model = load(train(run).folder)
        sweeps.append(decoded(model, config, split, pathlib.Path(run.output) / f"{name}.npz"))
    return Sweep(*(np.concatenate(parts) for parts in zip(*sweeps, strict=True)))


def compare(arms: Mapping[str, Sweep], controls: tuple[str, ...], accuracy: float) -> Comparison:
    """Passes of all arms at an accuracy."""
    found = {arm: frontier.passes_at_accuracy(of.points, accuracy) for arm, of in arms.items()}
    passes = {arm: value for arm, value in found.items() if value is not None}
    reached = [control for control in controls if control in passes]
    return Comparison(passes, min(reached, key=passes.__getitem__, default=None))


def ratio(arm: Sweep, control: Sweep, accuracy: float) -> frontier.PassesRatio | None:
    """Passes of an arm over a control's at an accuracy, with its interval over problems."""
    return frontier.passes_ratio_interval(*arm, *control, accuracy=accuracy)
