"""Evaluates the steps of a run on its validation split, and counts which of them is the best."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from cd4lm_jax.corruption.views import Batch
from cd4lm_jax.data import pipeline
from cd4lm_jax.distillation import validation
from cd4lm_jax.distillation.config import TrainConfig, TrainingError
from cd4lm_jax.distillation.decode_validation import DecodeValidation
from cd4lm_jax.distillation.loading import Loaded
from cd4lm_jax.distillation.placement import placed_batch
from cd4lm_jax.distillation.selection import ByDecoding, Point, logged
from cd4lm_jax.distillation.state import Trained
from cd4lm_jax.runtime.sharding import HostRows


class Judged(NamedTuple):
    """The evaluation of one step.

    Attributes:
        losses: of the validation split, by name.
        score: what steps are ranked by, higher is better.
        points: what decodes gave at each threshold, where steps are judged by them.
        best: the threshold that the step is judged by.
    """

    losses: dict[str, float]
    score: float
    points: list[Point] = []  # noqa: RUF012  # never changed
    best: Point | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Everything that is logged of it."""
        found = self.losses | logged(self.points)
        return {f"eval/{name}": value for name, value in found.items()}

    @property
    def shown(self) -> dict[str, float]:
        """What the progress line has of it."""
        if self.best is None:
            return {"eval": self.losses["loss"]}
        return {"accuracy": self.best.accuracy, "passes": self.best.passes}

    @property
    def metadata(self) -> dict[str, Any]:
        """What a checkpoint of the step has of it, as JSON values."""
        best = None if self.best is None else dataclasses.asdict(self.best)
        return {"loss": self.losses["loss"], "score": self.score, "decodes": best}


class Evaluated(NamedTuple):
    """What evaluations have found so far.

    Attributes:
        score: of the step that would be exported.
        stale: evaluations since a better one.
    """

    score: float = -math.inf
    stale: int = 0

    def after(self, score: float, *, ranked: bool) -> Evaluated:
        """With one evaluation more; without ranks the last one counts."""
        if not ranked or score > self.score:
            return Evaluated(score)
        return Evaluated(self.score, self.stale + 1)


class Evaluator:
    """How the steps of one run are evaluated; call it under the run's mesh."""

    def __init__(
        self, config: TrainConfig, loaded: Loaded, mesh: Mesh, split: pipeline.OpenData
    ) -> None:
        """Reads the prompts that are to be decoded, if any.

        Args:
            config: the run.
            loaded: its models.
            mesh: of the run.
            split: the validation split.

        Raises:
            TrainingError: prompts that do not fit, or decodes on several processes.
            SourceError: the validation source cannot be opened.
        """
        self._config, self._loaded, self._mesh, self._split = config, loaded, mesh, split
        self._decodes = None
        if isinstance(config.selection, ByDecoding):
            if jax.process_count() > 1:
                raise TrainingError(
                    "selection=ByDecoding decodes on the devices of one process, and this run has "
                    f"{jax.process_count()}; give selection=ByLoss"
                )
            self._decodes = DecodeValidation(
                config.selection, config.validation, loaded.tokenizer, loaded.architecture
            )

    def __call__(self, trained: Trained) -> Judged:
        """Evaluates the parameters of a step."""
        loaded, selection = self._loaded, self._config.selection
        losses = validation.losses(
            lambda batch: loaded.program.evaluate(trained, loaded.teacher, batch, loaded.base),
            self._batches,
        )
        if self._decodes is None or not isinstance(selection, ByDecoding):
            return Judged(losses, -losses["loss"])
        points = self._decodes.points(self._config.learner.student(trained, loaded.base))
        return Judged(losses, selection.score(points), points, selection.best(points))

    @functools.cached_property
    def _batches(self) -> list[Batch]:
        """The whole split, on the mesh."""
        rows = HostRows(self._mesh, self._config.validation.batch_size)
        return [placed_batch(batch, rows) for batch in self._split.once(rows.places)]
