"""The loop around the update: data, evaluation, early stop, checkpoints, metrics.

One trainer serves the teacher's training and distillation; which it is follows from the
settings (a teacher or none, the corruption, the objective).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
import pathlib
from typing import Any, Literal

import jax
from jax.sharding import AbstractMesh, Mesh

from cd4lm_jax.checkpoints.array_trees import DamagedError
from cd4lm_jax.checkpoints.loading import load_config, load_model
from cd4lm_jax.checkpoints.model_folder import write_model
from cd4lm_jax.checkpoints.run_checkpoints import RunCheckpoints
from cd4lm_jax.corruption.masking import Corruption
from cd4lm_jax.data import pipeline
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.distillation.batch import Batch
from cd4lm_jax.distillation.curriculum import Distance, LambdaCurriculum
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.optimizer import OptimizerConfig
from cd4lm_jax.distillation.program import Program, frozen_execution
from cd4lm_jax.distillation.states import Visited
from cd4lm_jax.distillation.step import Learner, Trained, TrainState
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.lora import LoraConfig
from cd4lm_jax.models.transformer import Execution, Transformer
from cd4lm_jax.runtime import cluster, files
from cd4lm_jax.runtime.interrupt import Interrupted, stop_requests
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
from cd4lm_jax.runtime.metrics import Writers
from cd4lm_jax.runtime.profiling import StepTrace
from cd4lm_jax.runtime.progress import Progress
from cd4lm_jax.runtime.sharding import HostRows
from cd4lm_jax.runtime.trees import named_leaves, with_leaves
from cd4lm_jax.settings.config import config_to_json, to_plain

CONFIG_FILE = "config.json"
MODEL_FOLDER = "model"
PROFILE_FOLDER = "profile"
_SHOWN = ("loss", "kl", "ce")
# What a continued run may change: its numbers stay comparable with those before.
_FREE = frozenset(
    ("output", "steps", "mesh", "execution", "accumulate", "log_every", "save_every", "patience")
)
CHECKPOINTS_FOLDER = "checkpoints"


class TrainingError(ValueError):
    """Training cannot start or go on; one line that says why and how to mend it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        output: the run's folder: checkpoints, metrics, config, and in the end ``model/``.
        steps: updates in all.
        seed: of parameters and masks.
        init: model folder to start from; None starts afresh from ``model``.
        model: architecture of a fresh model; None with ``init``.
        tokenizer: folder of a fresh model's tokenizer; None takes that of ``init``.
        teacher: model folder of the frozen teacher; None trains on the text alone.
        teacher_dtype: what the teacher's weights, and with LoRA the base's, are held and computed
            in.
        lora: trains adapters of a frozen ``init``; the teacher, if it is the same folder, is the
            base with its adapters off, so there is no second copy. None trains all parameters.
        average: the teacher is the student's own moving average, which keeps this share of itself
            in an update and starts as ``init``; None keeps the teacher frozen.
        corruption, objective, curriculum, distance, optimizer: how the student learns.
        data: what it is trained on.
        validation: what it is judged by.
        execution: compute dtype, scan, remat.
        mesh: devices along each axis.
        accumulate: parts that a batch is worked off in, to save memory; divides the batch size.
        log_every: steps between two lines of metrics.
        eval_every: steps between two evaluations, each followed by a checkpoint.
        save_every: steps between two checkpoints besides, for runs that are often killed; 0 for
            none.
        patience: evaluations without a better loss before training stops; 0 never stops early.
        max_bad_steps: updates in a row that may be skipped for a loss that is not finite.
    """

    output: str
    steps: int
    seed: int = 0
    init: str | None = None
    model: ModelConfig | None = None
    tokenizer: str | None = None
    teacher: str | None = None
    teacher_dtype: str = "float32"
    lora: LoraConfig | None = None
    average: float | None = None
    corruption: Corruption | Visited = Corruption()
    objective: Objective = Objective()
    curriculum: LambdaCurriculum = LambdaCurriculum()
    distance: Distance = Distance()
    optimizer: OptimizerConfig = OptimizerConfig()
    data: pipeline.DataConfig = pipeline.DataConfig()
    validation: pipeline.DataConfig = pipeline.DataConfig(split="validation")
    execution: Execution = Execution()
    mesh: MeshConfig = MeshConfig()
    accumulate: int = 1
    log_every: int = 10
    eval_every: int = 50
    save_every: int = 0
    patience: int = 0
    max_bad_steps: int = 10

    def __post_init__(self) -> None:
        if (self.init is None) == (self.model is None):
            raise TrainingError(
                "give either init (a model folder to start from) or model (an architecture to "
                "start afresh), not both and not neither"
            )
        if self.model is not None and self.tokenizer is None:
            raise TrainingError("a fresh model needs tokenizer, the folder of its tokenizer")
        if self.lora is not None and self.init is None:
            raise TrainingError(
                "lora adapts a model that is there: give init, its folder, or lora=none to train a "
                "fresh model"
            )
        if self.average is not None and (self.init is None or self.teacher != self.init):
            raise TrainingError(
                f"average={self.average} makes the student's average the teacher, and it starts as "
                f"the student: give the same folder as init and teacher, not {self.init} and "
                f"{self.teacher}"
            )
        if isinstance(self.corruption, Visited) and self.teacher is None:
            if self.corruption.by == "teacher":
                raise TrainingError(
                    "corruption.by=teacher takes the teacher's passes, and there is none: give "
                    "teacher, its folder, or corruption.by=student"
                )
            if self.corruption.shows == "own":
                raise TrainingError(
                    "corruption.shows=own leaves the text, and there is no teacher to go on from "
                    "what the student said: give teacher, its folder, or corruption.shows=text"
                )
        for name in ("steps", "log_every", "eval_every", "max_bad_steps"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name}={getattr(self, name)}; give 1 or more")
        if self.save_every < 0:
            raise TrainingError(f"save_every={self.save_every}; give 0 (none besides) or more")

    @property
    def learner(self) -> Learner:
        """The static part of the update."""
        return Learner(
            corruption=self.corruption,
            objective=self.objective,
            curriculum=self.curriculum,
            optimizer=self.optimizer,
            total_steps=self.steps,
            seed=self.seed,
            distance=self.distance,
            average=self.average,
            accumulate=self.accumulate,
            lora=self.lora,
        )

    def program(self, architecture: ModelConfig, mesh: Mesh | AbstractMesh) -> Program:
        """What the run compiles, for a model of the architecture that ``init`` or ``model`` has."""
        return Program.of(
            self.learner,
            architecture,
            mesh,
            execution=self.execution,
            frozen_dtype=self.teacher_dtype,
            teacher=self.frozen_teacher,
        )

    @property
    def frozen_teacher(self) -> Literal["none", "base", "own"]:
        """What teaches beside the state: nothing, the base with its adapters off, its own model."""
        if self.teacher is None or self.average is not None:
            return "none"
        return "base" if self.lora is not None and self.teacher == self.init else "own"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run left behind.

    Attributes:
        folder: the exported best model, a model folder.
        steps: updates made.
        best_step: the step of the exported model.
        best_loss: its validation loss.
    """

    folder: pathlib.Path
    steps: int
    best_step: int
    best_loss: float


def train(config: TrainConfig, *, profile: range = range(0)) -> TrainResult:
    """Runs or continues a training run and exports its best model.

    A run whose folder holds checkpoints continues from the latest complete one, at the exact
    next batch; a damaged one is passed over with a warning. The best model is the one of the
    lowest validation loss. On several hosts all of them call this.

    Args:
        config: the run.
        profile: numbers of the steps that are traced into ``profile/``, by the main process.

    Raises:
        TrainingError: the folder holds another run, or the loss stays not finite.
        InUseError: another run works in the folder.
        CheckpointError: a model that cannot be read, or a checkpoint of another shape.
        Interrupted: SIGTERM or Ctrl-C came; the state after the step is saved.
    """
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        return _Run(config, mesh, profile).run()


class _Run:
    """One call of :func:`train`: what is loaded once, and the loop."""

    def __init__(self, config: TrainConfig, mesh: Mesh, profile: range = range(0)) -> None:
        self.config, self.mesh, self.profile = config, mesh, profile
        self.output = pathlib.Path(config.output)
        self.tokenizer = Tokenizer.load(_tokenizer_folder(config))
        self.base = self._load(config.init or "", config.teacher_dtype) if config.lora else None
        self.teacher = None
        if config.teacher is not None and config.frozen_teacher == "own":
            self.teacher = self._load(config.teacher, config.teacher_dtype)
        self.program = config.program(config.model or load_config(config.init or ""), mesh)

    def run(self) -> TrainResult:
        config, main = self.config, cluster.is_main()
        with (
            files.locked(self.output) if main else contextlib.nullcontext(),
            RunCheckpoints(self.output / CHECKPOINTS_FOLDER) as checkpoints,
        ):
            rows = HostRows(self.mesh, config.data.batch_size)
            batches = iter(pipeline.batches(config.data, self.tokenizer, rows=rows.places))
            state, best, stale = self._start(checkpoints, batches)
            if main:
                files.write_text(self.output / CONFIG_FILE, config_to_json(config))
            label = "distill" if config.teacher else "train"
            traced = self.profile if main else range(0)
            with (
                stop_requests() as request,
                Writers(self.output if main else None) as writers,
                Progress(config.steps, label=label, quiet=not main) as progress,
                StepTrace(self.output / PROFILE_FOLDER, traced) as trace,
            ):
                step, truncated = int(state.step), 0
                shown: dict[str, Any] = {}
                metrics: dict[str, jax.Array] = {}
                stopping = cluster.Agreement(lambda: request.number, self.mesh)
                while step < config.steps and not (config.patience and stale >= config.patience):
                    stopping.ask()
                    with trace.step(step + 1):
                        read = next(batches)
                        truncated += int(read["truncated"].sum())
                        batch, previous = _place(read, rows), metrics
                        state, metrics = self.program.update(state, self.teacher, batch, self.base)
                    step += 1
                    trace.ended(step, metrics)
                    # Waits for the step before: at most two are in flight, so the device stays
                    # busy while rate and ETA are true.
                    skipped = self._skipped(previous, step - 1)
                    if step % config.log_every == 0 or step == config.steps:
                        writers.write(step, metrics)
                    shown |= {name: metrics[name] for name in _SHOWN if name in metrics}
                    shown |= {"skipped": skipped} if skipped or "skipped" in shown else {}
                    # Rows of this host, since it started, whose prompts lost their start.
                    shown |= {"truncated": truncated} if truncated else {}
                    score = None
                    if step % config.eval_every == 0 or step == config.steps:
                        scores = self._validate(state.model)
                        writers.write(step, {f"eval/{name}": v for name, v in scores.items()})
                        shown["eval"] = scores["loss"]
                        stale = 0 if scores["loss"] < best else stale + 1
                        best = min(best, scores["loss"])
                        score = -scores["loss"]
                    stop = stopping.answer()
                    due = config.save_every and step % config.save_every == 0
                    if score is not None or due or stop:
                        checkpoints.save(
                            step,
                            named_leaves(state),
                            data_state=batches.get_state(),
                            metadata={"config": to_plain(config), "best": best, "stale": stale},
                            score=score,
                        )
                    progress.update(step, shown)
                    if stop:
                        checkpoints.wait()
                        raise Interrupted(
                            stop,
                            f"stopped after step {step} of {config.steps} and saved; the same "
                            "command continues",
                        )
            return self._export(checkpoints, step, best)

    def _start(self, checkpoints: RunCheckpoints, batches: Any) -> tuple[TrainState, float, int]:
        """The state to go on from, the best validation loss so far, evaluations since."""
        while (latest := checkpoints.latest()) is not None:
            saved = checkpoints.metadata(latest)
            self._same_run(saved["config"], latest)
            try:
                restored = checkpoints.restore(latest, named_leaves(self.program.state))
            except DamagedError:
                checkpoints.set_aside(latest)
                continue
            batches.set_state(restored.data_state)
            return with_leaves(self.program.state, restored.state), saved["best"], saved["stale"]
        return self.program.create(self._initial_model()), float("inf"), 0

    def _same_run(self, saved: dict[str, Any], step: int) -> None:
        """Refuses a folder whose checkpoints are of another run."""
        mine = to_plain(self.config)
        different = [name for name in mine if name not in _FREE and mine[name] != saved.get(name)]
        if different:
            raise TrainingError(
                f"{self.output} holds a run of other settings ({', '.join(different)} differ, "
                f"checkpoint of step {step}); give another output, or remove that folder"
            )

    def _initial_model(self) -> Transformer:
        config = self.config
        if self.base is not None:
            return self.base
        if config.init is not None:
            return self._load(config.init, "float32")
        assert config.model is not None  # TrainConfig checks
        make = functools.partial(Transformer, config.model, execution=config.execution)
        shardings = self.program.shardings.model
        return jax.jit(make, out_shardings=shardings)(jax.random.key(config.seed))

    def _load(self, folder: str, dtype: str) -> Transformer:
        execution = frozen_execution(self.config.execution, dtype)
        return load_model(folder, execution, dtype=dtype, mesh=self.mesh)

    def _validate(self, trained: Trained) -> dict[str, float]:
        """Loss terms over the validation split, each batch weighted by its examples."""
        totals: dict[str, float] = {}
        for batch, count in self.validation_batches:
            terms = self.program.evaluate(trained, self.teacher, batch, self.base)
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + count * float(value)
        examples = sum(count for _, count in self.validation_batches)
        return {name: total / examples for name, total in totals.items()}

    @functools.cached_property
    def validation_batches(self) -> list[tuple[Batch, int]]:
        """The whole split with examples counted; masks never change, so that losses compare."""
        rows = HostRows(self.mesh, self.config.validation.batch_size)
        placed = []
        for batch in pipeline.eval_batches(self.config.validation, self.tokenizer):
            count = int(batch["answer"].any(axis=1).sum())
            mine = jax.tree.map(operator.itemgetter(rows.places), batch)
            placed.append((_place(mine, rows), count))
        return placed

    def _skipped(self, metrics: dict[str, jax.Array], step: int) -> int:
        """Updates skipped in a row up to this step; too many are an error."""
        bad = int(metrics.get("bad_steps", 0))
        if bad >= self.config.max_bad_steps:
            raise TrainingError(
                f"loss or gradient was not finite in {bad} updates in a row, up to step {step}; "
                "lower optimizer.learning_rate or look at the data; the last checkpoint is sound"
            )
        return bad

    def _export(self, checkpoints: RunCheckpoints, step: int, best: float) -> TrainResult:
        """Writes the best checkpoint's parameters as a model folder."""
        best_step = checkpoints.best()
        if best_step is None:
            raise TrainingError(
                f"{self.output}: no evaluation gave a finite loss, so there is no model to export"
            )
        restored = checkpoints.restore(best_step, named_leaves(self.program.state))
        state = with_leaves(self.program.state, restored.state)
        folder = self.output / MODEL_FOLDER
        write_model(folder, self.config.learner.merged(state.model, self.base))
        if cluster.is_main():
            self.tokenizer.save(folder)
        return TrainResult(folder=folder, steps=step, best_step=best_step, best_loss=best)


def _place(batch: pipeline.HostBatch, rows: HostRows) -> Batch:
    """The global batch of which this host has read its rows."""
    fields = (field.name for field in dataclasses.fields(Batch))
    return Batch(**{name: rows.place(batch[name]) for name in fields})  # type: ignore[literal-required]


def _tokenizer_folder(config: TrainConfig) -> str:
    folder = config.tokenizer or config.init
    assert folder is not None  # TrainConfig checks
    return folder
