"""The description of a training run: `TrainConfig`, and what follows from it before it starts."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jax.sharding import AbstractMesh, Mesh

from cd4lm_jax.corruption.masking import DiffusionMasks, IndependentMasks, NestedMasks
from cd4lm_jax.data.pipeline import DataConfig
from cd4lm_jax.distillation.curriculum import Distance, LambdaCurriculum
from cd4lm_jax.distillation.learner import Learner
from cd4lm_jax.distillation.objective import Objective, Teaching
from cd4lm_jax.distillation.optimizer import OptimizerConfig
from cd4lm_jax.distillation.program import Program
from cd4lm_jax.distillation.pseudo_trajectory import PseudoTrajectory
from cd4lm_jax.distillation.rollout import Rollout
from cd4lm_jax.distillation.selection import ByDecoding, ByLoss
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.lora import LoraConfig
from cd4lm_jax.models.quantization import Mode, check_mode
from cd4lm_jax.models.transformer import Execution
from cd4lm_jax.runtime.mesh import MeshConfig

DTYPES = ("float32", "bfloat16", "float16")
"""What the weights of a frozen model may be in."""


class TrainingError(ValueError):
    """Training cannot start or continue; one line that says why and how to correct it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        output: the run's folder: checkpoints, metrics, config, and in the end `model/`.
        steps: updates in all.
        seed: of parameters and masks.
        init: model folder to start from; None starts afresh from `model`.
        model: architecture of a fresh model; None with `init`.
        tokenizer: folder of a fresh model's tokenizer; None takes that of `init`.
        teacher: model folder of the frozen teacher; None trains on the text alone.
        teacher_dtype: dtype of the weights of the teacher, and with LoRA of the base, and of their
            computation.
        lora: trains adapters of a frozen `init`; the teacher, if it is the same folder, is the
            base with its adapters off, so there is no second copy. None trains all parameters.
        quantize: what the kernels of teacher and base are quantised to; with `lora` that is QLoRA
            (Dettmers et al., 2305.14314): one copy in 8 or 4 bits is what adapters are of and what
            teaches.
        average: the teacher is the student's moving average, which keeps this share of itself
            in an update and starts as `init`; None keeps the teacher frozen.
        corruption: the noisy states of the text that are learned from.
        objective: what the loss is.
        curriculum: weight of the teacher's distribution over the run.
        distance: passes that the teacher is ahead of the student in a rollout, over the run.
        optimizer: algorithm, learning rate and schedule.
        data: what it is trained on.
        validation: what it is evaluated on.
        selection: which step is exported: the one of the lowest validation loss, where that ranks
            the steps, or the one whose decodes of validation prompts are best.
        execution: compute dtype, scan, remat.
        mesh: devices along each axis.
        micro_batch: rows of a micro-batch, whose losses are averaged as the published code does: a
            row with a short answer then weighs as much as one with a long answer. 0, the default,
            weights all learned positions of a batch alike, so that the update does not depend on
            which rows are neighbours.
        accumulate: parts that a batch is computed in, to save memory; divides the batch size.
        log_every: steps between two lines of metrics.
        eval_every: steps between two evaluations, each followed by a checkpoint.
        save_every: steps between two checkpoints besides, for runs that are often killed; 0 for
            none.
        patience: evaluations without a better step before training stops; 0 never stops early.
        max_bad_steps: updates in a row that may be skipped for a loss that is not finite.

    Raises:
        TrainingError: settings that do not fit each other.
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
    quantize: Mode = "none"
    average: float | None = None
    corruption: NestedMasks | IndependentMasks | DiffusionMasks | Rollout | PseudoTrajectory = (
        NestedMasks()
    )
    objective: Objective = Objective()
    curriculum: LambdaCurriculum = LambdaCurriculum()
    distance: Distance = Distance()
    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()
    validation: DataConfig = DataConfig(split="validation")
    selection: ByLoss | ByDecoding = ByLoss()
    execution: Execution = Execution()
    mesh: MeshConfig = MeshConfig()
    micro_batch: int = 0
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
        if self.teacher is None and self.corruption.needs_teacher:
            raise TrainingError(f"corruption.{self.corruption.needs_teacher}")
        if self.teacher is not None and not self.corruption.teaches:
            raise TrainingError(
                f"corruption is {type(self.corruption).__name__}, which has no view for a teacher, "
                f"so teacher={self.teacher} would be ignored; give teacher=none, or NestedMasks"
            )
        for name in ("steps", "log_every", "eval_every", "max_bad_steps"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name}={getattr(self, name)}; give 1 or more")
        for name in ("save_every", "patience"):
            if getattr(self, name) < 0:
                raise TrainingError(f"{name}={getattr(self, name)}; give 0 (none) or more")
        if self.optimizer.warmup_steps > self.steps:
            raise TrainingError(
                f"optimizer.warmup_steps={self.optimizer.warmup_steps} is beyond the run of "
                f"{self.steps} steps, which would never reach its learning rate; give at most "
                f"{self.steps}"
            )
        for name in ("micro_batch", "accumulate"):
            parts, rows = getattr(self, name), self.data.batch_size
            if parts > 0 and rows % parts:
                raise TrainingError(
                    f"{name}={parts} does not divide data.batch_size={rows}; give one that does"
                )
        if self.micro_batch and self.data.pack > 1:
            raise TrainingError(
                f"micro_batch={self.micro_batch} averages the losses of so many rows, and with "
                f"data.pack={self.data.pack} a canvas holds any number; give micro_batch=0 or "
                "data.pack=1"
            )
        if self.teacher_dtype not in DTYPES:
            raise TrainingError(
                f"teacher_dtype={self.teacher_dtype} is unknown; give {' or '.join(DTYPES)}"
            )
        try:
            check_mode(self.quantize)
        except ValueError as error:
            raise TrainingError(str(error)) from None
        if self.quantize != "none" and self.lora is None and self.frozen_teacher == "none":
            raise TrainingError(
                f"quantize={self.quantize} is for models that training leaves as they are, and "
                "there are none: give lora (adapters of a quantised base), a teacher, or "
                "quantize=none"
            )
        if self.patience and not self.ranked:
            raise TrainingError(
                f"patience={self.patience} stops by validation loss, which does not rank the steps "
                f"of this run ({self._why_not_ranked}); give patience=0, the last step is "
                "exported, or selection=ByDecoding, which judges a step by its decodes"
            )

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
            micro_batch=self.micro_batch,
            accumulate=self.accumulate,
            lora=self.lora,
        )

    @property
    def ranked(self) -> bool:
        """Whether evaluations rank the steps, so that the best one is exported; else the last is.

        Decodes always do, the validation loss where `Objective.comparable` says so.
        """
        comparable = self.objective.comparable(self.corruption, self.teaching)
        return self.selection.decodes or "loss" in comparable

    @property
    def teaching(self) -> Teaching:
        """Who teaches."""
        if self.teacher is None:
            return "none"
        return "frozen" if self.average is None else "average"

    @property
    def frozen_teacher(self) -> Literal["none", "base", "separate"]:
        """What teaches besides the state: nothing, the base without adapters, or another model."""
        if self.teaching != "frozen":
            return "none"
        return "base" if self.lora is not None and self.teacher == self.init else "separate"

    @property
    def _why_not_ranked(self) -> str:
        if not self.corruption.representative:
            name = type(self.corruption).__name__
            return f"corruption is a {name}, whose states change as the student learns"
        return f"average={self.average}: the teacher changes as the student learns"

    def program(self, architecture: ModelConfig, mesh: Mesh | AbstractMesh) -> Program:
        """What the run compiles, for a model of the architecture that `init` or `model` has.

        Raises:
            TrainingError: settings that do not fit the blocks that the model attends by.
        """
        self._check_blocks(architecture)
        return Program.of(
            self.learner,
            architecture,
            mesh,
            execution=self.execution,
            frozen_dtype=self.teacher_dtype,
            frozen_mode=self.quantize,
            teacher=self.frozen_teacher,
        )

    def _check_blocks(self, model: ModelConfig) -> None:
        """Of a model of block attention, which learns each block behind finished ones."""
        if model.attention != "block":
            return
        if model.blocks != "sequence":
            raise TrainingError(
                f"the model attends by blocks that count from the start of the {model.blocks}, "
                "which training does not know; give a model whose blocks count from the start of "
                "the sequence (blocks=sequence)"
            )
        if isinstance(self.corruption, NestedMasks | DiffusionMasks) and self.corruption.blockwise:
            raise TrainingError(
                f"corruption.blockwise={self.corruption.blockwise} masks what follows a block and "
                "nothing before it, and a model of block attention sees every block so; give "
                "corruption.blockwise=0"
            )
        lengths = {}
        if isinstance(self.corruption, Rollout):
            lengths["corruption"] = self.corruption.block_length
        if isinstance(self.selection, ByDecoding):
            lengths["selection.decode"] = self.selection.decode.block_length
        for name, length in lengths.items():
            if length != model.block_length:
                raise TrainingError(
                    f"{name}.block_length={length}, and the model attends by blocks of "
                    f"{model.block_length}; give {name}.block_length={model.block_length}"
                )
