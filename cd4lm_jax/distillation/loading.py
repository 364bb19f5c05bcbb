"""What a run loads once: tokenizer, frozen models, and the functions that it compiles."""

from __future__ import annotations

import functools

import jax
from jax.sharding import Mesh

from cd4lm_jax.checkpoints.loading import load_config, load_model, located
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.distillation import compatibility
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.program import frozen_execution
from cd4lm_jax.models.fingerprint import fingerprint
from cd4lm_jax.models.transformer import Transformer


class Loaded:
    """The parts of a run that do not change; call under `jax.set_mesh`.

    Attributes:
        tokenizer: of the student.
        architecture: of the student.
        program: what is compiled.
        teacher: frozen; None where the text alone, the base or an average teaches.
        base: what adapters are of, with LoRA.
    """

    def __init__(self, config: TrainConfig, mesh: Mesh) -> None:
        """Checks that the parts fit each other, and loads them.

        Raises:
            TrainingError: they do not fit.
            DataError: an answer does not fit its row.
            CheckpointError: a model that cannot be read.
        """
        self._config, self._mesh = config, mesh
        folder = config.tokenizer or config.init or ""  # TrainConfig checks that there is one
        self.tokenizer = Tokenizer.load(located(folder))
        self.architecture = architecture = config.model or load_config(config.init or "")
        compatibility.check_tokenizer(self.tokenizer, architecture, folder)
        models = [architecture]
        if config.teacher is not None:
            models.append(load_config(config.teacher))
            compatibility.check_teacher(models[-1], architecture, config.teacher)
        for model in models:
            compatibility.check_length(config.data, model, "data")
            compatibility.check_length(config.validation, model, "validation")
        if config.lora is None and config.init is not None:
            compatibility.check_trainable(config.init)
        self.program = config.program(architecture, mesh)
        self.base = self.teacher = None
        if config.lora is not None:
            self.base = self._frozen(config.init or "")
        if config.frozen_teacher == "separate":
            self.teacher = self._frozen(config.teacher or "")

    def initial_model(self) -> Transformer:
        """The student before its first update, or the base of its adapters."""
        config = self._config
        if self.base is not None:
            return self.base
        if config.init is not None:
            return load_model(config.init, config.execution, mesh=self._mesh)
        assert config.model is not None  # TrainConfig checks
        make = functools.partial(Transformer, config.model, execution=config.execution)
        shardings = self.program.shardings.model
        return jax.jit(make, out_shardings=shardings)(jax.random.key(config.seed))

    @functools.cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of the frozen models by role: what a continued run compares."""
        frozen = {"teacher": self.teacher, "base": self.base}
        return {role: fingerprint(model) for role, model in frozen.items() if model is not None}

    @property
    def frozen_folders(self) -> dict[str, str]:
        """Where the frozen models were loaded from, by role."""
        return {"teacher": self._config.teacher or "", "base": self._config.init or ""}

    def _frozen(self, folder: str) -> Transformer:
        config, dtype = self._config, self._config.teacher_dtype
        execution = frozen_execution(config.execution, dtype)
        return load_model(folder, execution, dtype=dtype, mesh=self._mesh, quantize=config.quantize)
