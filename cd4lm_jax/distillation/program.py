"""What a run compiles: its jitted functions on a mesh, and the shapes of what they take.

Nothing is on a device yet, and the devices need not be there: the trainer runs these functions,
the planner compiles the same ones ahead of time.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from cd4lm_jax.checkpoints.model_folder import abstract_model
from cd4lm_jax.corruption.views import Batch
from cd4lm_jax.distillation import validation
from cd4lm_jax.distillation.learner import Learner
from cd4lm_jax.distillation.placement import placed_state
from cd4lm_jax.distillation.state import TrainState
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.quantization import Mode
from cd4lm_jax.models.transformer import Execution, Transformer
from cd4lm_jax.runtime.sharding import HostRows, spec


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """The update of a run and what goes with it; call its functions under `jax.set_mesh`.

    Every array of the attributes is a `jax.ShapeDtypeStruct` with its sharding.

    Attributes:
        learner: the static part of the update.
        mesh: where it runs; an abstract one where nothing is to be compiled.
        state: what training changes.
        teacher: frozen; None where the text alone teaches, or the base.
        base: what adapters are of, with LoRA.
        teacher_is_base: the base teaches with its adapters off. It is one argument then: XLA
            would reserve memory for each of two, even if they share a buffer.
    """

    learner: Learner
    mesh: Mesh | AbstractMesh
    state: TrainState
    teacher: Transformer | None
    base: Transformer | None
    teacher_is_base: bool

    @classmethod
    def of(
        cls,
        learner: Learner,
        architecture: ModelConfig,
        mesh: Mesh | AbstractMesh,
        *,
        execution: Execution = Execution(),
        frozen_dtype: str = "float32",
        frozen_mode: Mode = "none",
        teacher: Literal["none", "base", "separate"] = "separate",
    ) -> Program:
        """The program of a model of this architecture.

        Args:
            learner: how it learns.
            architecture: of the student, and of the teacher.
            mesh: of devices that may be described only.
            execution: of the student.
            frozen_dtype: the dtype of the weights of teacher and base, and of their computation.
            frozen_mode: what kernels of teacher and base are quantised to.
            teacher: a separate model, the base of the adapters, or none.
        """
        model = abstract_model(architecture, execution)
        frozen_run = frozen_execution(execution, frozen_dtype)
        frozen = abstract_model(
            architecture, frozen_run, dtype=frozen_dtype, mesh=mesh, quantize=frozen_mode
        )
        return cls(
            learner=learner,
            mesh=mesh,
            state=placed_state(mesh, jax.eval_shape(learner.init, model)),
            teacher=frozen if teacher == "separate" else None,
            base=frozen if learner.lora is not None else None,
            teacher_is_base=teacher == "base",
        )

    @property
    def shardings(self) -> TrainState:
        """Those of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.state)

    @functools.cached_property
    def update(self) -> Any:
        """`update(state, teacher, batch, base)`, which takes the state over."""

        def update(state: TrainState, teacher: Any, batch: Batch, base: Any) -> Any:
            teacher = base if self.teacher_is_base else teacher
            return self.learner.update(state, teacher, batch, base)

        # The state's shardings are pinned: left alone, gradients lose their fsdp axis.
        return jax.jit(update, donate_argnums=0, out_shardings=(self.shardings, None))

    @functools.cached_property
    def evaluate(self) -> Any:
        """`evaluate(trained, teacher, batch, base)`."""

        def evaluate(trained: Any, teacher: Any, batch: Batch, base: Any) -> Any:
            teacher = base if self.teacher_is_base else teacher
            return validation.evaluate(self.learner, trained, teacher, batch, base)

        return jax.jit(evaluate)

    @functools.cached_property
    def create(self) -> Any:
        """`create(model)`: a fresh state around it."""
        return jax.jit(self.learner.init, out_shardings=self.shardings)

    def batch(self, canvases: int, length: int, pack: int = 1) -> Batch:
        """The shapes of a batch.

        Args:
            canvases: of the batch, its rows where none are packed.
            length: tokens of each.
            pack: rows that share a canvas.

        Raises:
            ValueError: the mesh cannot split so many canvases.
        """
        HostRows.check(self.mesh, canvases)
        sharding = NamedSharding(self.mesh, spec(("batch",)))

        def array(dtype: Any, *shape: int) -> Any:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

        rows = canvases * pack
        return Batch(
            tokens=array(jnp.int32, rows, length),
            valid=array(jnp.bool_, rows, length),
            answer=array(jnp.bool_, rows, length),
            index=array(jnp.int32, rows),
            starts=array(jnp.int32, canvases, pack) if pack > 1 else None,
        )

    def lower(self, canvases: int, length: int, pack: int = 1) -> Any:
        """The update, lowered for a batch of this shape, see `batch`."""
        assert isinstance(self.mesh, Mesh)  # an abstract mesh has nothing to compile for
        with jax.set_mesh(self.mesh):
            batch = self.batch(canvases, length, pack)
            return self.update.lower(self.state, self.teacher, batch, self.base)


def frozen_execution(execution: Execution, dtype: str) -> Execution:
    """How a frozen model with weights in `dtype` runs."""
    # A computation in more bits than the weights have gains nothing.
    return execution if dtype == "float32" else dataclasses.replace(execution, dtype=dtype)
