"""The one jitted update: the same for every mesh, every objective and all states of a text."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cd4lm_jax.corruption.views import Batch, Models, States, Views
from cd4lm_jax.distillation import accumulation
from cd4lm_jax.distillation import loss as losses
from cd4lm_jax.distillation.curriculum import Distance, LambdaCurriculum
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.optimizer import OptimizerConfig, updates_applied
from cd4lm_jax.distillation.placement import split_as_parameters
from cd4lm_jax.distillation.projection import hidden_states
from cd4lm_jax.distillation.state import Trained, TrainState
from cd4lm_jax.models import lora
from cd4lm_jax.models.lora import LoraConfig
from cd4lm_jax.models.transformer import Transformer

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
    """Everything static about an update; hashable, so it can be closed over by jit.

    Attributes:
        corruption: the states of the text that are learned from.
        objective: what the loss is.
        curriculum: lambda over training; unused without a teacher.
        distance: passes that the teacher is ahead of the student in a rollout.
        average: the teacher is a moving average of the student, which keeps this share of itself
            in an update (Mean Teacher, Tarvainen & Valpola, 1703.01780; consistency models,
            2303.01469). None leaves the teacher as it is.
        optimizer: settings of the optimizer.
        total_steps: length of the run, which the schedules follow.
        seed: of the masks.
        micro_batch: rows of a micro-batch: the loss is the mean of the losses of micro-batches, as
            the published code averages them. 0 weights all learned positions of a batch alike.
        accumulate: parts that a batch is computed in, one after the other, to save memory; the
            update is that of the whole batch.
        lora: trains adapters of a frozen base instead of all parameters.

    Raises:
        ValueError: a number out of its range, or settings that need another one.
    """

    corruption: States
    objective: Objective
    curriculum: LambdaCurriculum
    optimizer: OptimizerConfig
    total_steps: int
    seed: int
    distance: Distance = Distance()
    average: float | None = None
    micro_batch: int = 0
    accumulate: int = 1
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"accumulate={self.accumulate}; give 1 (whole batches) or more")
        if self.micro_batch < 0:
            raise ValueError(f"micro_batch={self.micro_batch}; give 0 (whole batches) or more")
        if self.accumulate > 1 and self.objective.clamp:
            raise ValueError(
                "objective.clamp bounds the loss of a whole batch, which accumulate="
                f"{self.accumulate} never forms; give accumulate=1 or clamp=false"
            )
        if self.average is not None and not 0 <= self.average < 1:
            raise ValueError(f"average={self.average}; give a share of 0 or more and below 1")

    def init(self, model: Transformer) -> TrainState:
        """A fresh state around `model`, or with LoRA of fresh adapters of it."""
        trained: Trained = model
        if self.lora is not None:
            trained = lora.create(self.lora, model, jax.random.key(self.seed))
        averaged = self.average is not None
        return TrainState.create(trained, self.optimizer.build(self.total_steps), averaged=averaged)

    def student(self, trained: Trained, base: Transformer | None) -> Transformer:
        """The model that is trained: with LoRA, `base` with its adapters on."""
        if isinstance(trained, Transformer):
            return trained
        assert self.lora is not None  # what `init` made adapters by
        assert base is not None  # the caller's to give with LoRA
        return lora.attach(self.lora, base, trained)

    def merged(
        self, trained: Trained, base: Transformer | None, dtype: str = "float32"
    ) -> Transformer:
        """The model that was trained as an ordinary one, to be exported; adapters in `dtype`."""
        if isinstance(trained, Transformer):
            return trained
        assert self.lora is not None
        assert base is not None
        return lora.merge(self.lora, base, trained, dtype)

    def step_key(self, step: jax.Array | int) -> jax.Array:
        """The typed key of what is drawn in a step."""
        return jax.random.fold_in(jax.random.key(self.seed), step)

    def views(
        self,
        student: Transformer,
        teacher: Transformer | None,
        batch: Batch,
        key: jax.Array,
        distance: jax.Array | int = 1,
        progress: jax.Array | float = 1.0,
    ) -> Views:
        """What the student and the teacher are shown of a batch in the step of `key`."""
        models = Models(student, teacher, distance, self.accumulate, progress)
        views = self.corruption.views(key, batch, models)
        return views.averaged(self.micro_batch) if self.micro_batch else views

    def loss(
        self,
        student: Transformer,
        teacher: Transformer | None,
        batch: Batch,
        views: Views,
        lam: jax.Array | float,
    ) -> losses.Terms:
        """The loss of a batch, or of some of its rows, under given views.

        Args:
            student: differentiated.
            teacher: frozen; None to learn from the text alone.
            batch: rows.
            views: of these rows.
            lam: weight of the KL term, a scalar.
        """
        states = hidden_states(student, batch, views.tokens, views.student)
        targets, weight = (
            batch.on_canvas(array).reshape(-1) for array in (views.tokens, views.weight)
        )
        expert = predicted = None
        if teacher is not None and views.teacher is not None:
            expert = hidden_states(teacher, batch, views.tokens, views.teacher)
            predicted = batch.on_canvas(views.teacher).reshape(-1)
        return losses.loss(self.objective, states, expert, targets, weight, lam, predicted)

    def loss_and_gradient(
        self,
        trained: Trained,
        teacher: Transformer | None,
        batch: Batch,
        key: jax.Array,
        lam: jax.Array,
        base: Transformer | None = None,
        distance: jax.Array | int = 1,
        progress: jax.Array | float = 1.0,
    ) -> tuple[losses.Terms, Trained]:
        """Loss terms of a batch under the views that `key` draws, and the gradient."""
        views = self.views(self.student(trained, base), teacher, batch, key, distance, progress)

        def part(batch: Batch, views: Views) -> tuple[losses.Terms, Trained]:
            def total(trained: Trained) -> tuple[jax.Array, losses.Terms]:
                terms = self.loss(self.student(trained, base), teacher, batch, views, lam)
                return terms.total, terms

            gradient, terms = jax.grad(total, has_aux=True)(trained)
            return terms, gradient

        if self.accumulate == 1:
            return part(batch, views)
        # Weights sum to one over the whole batch, so its loss is the sum of its parts'.
        parts = accumulation.split((batch, views), self.accumulate, batch.canvases)
        zero = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(part, batch, views)
        )

        def add(sums: Any, rows: Any) -> tuple[Any, None]:
            terms, gradient = jax.tree.map(jnp.add, sums, part(*rows))
            return (terms, split_as_parameters(gradient)), None

        return lax.scan(add, zero, parts)[0]

    def update(
        self,
        state: TrainState,
        teacher: Transformer | None,
        batch: Batch,
        base: Transformer | None = None,
    ) -> tuple[TrainState, Metrics]:
        """One update. A loss or gradient that is not finite changes nothing and is counted.

        Args:
            state: what changes; may be donated.
            teacher: frozen; None to learn from the text alone, or where an average teaches.
            batch: of any number of rows.
            base: what adapters are of, with LoRA; may be the teacher itself.

        Returns:
            The state after it, and scalars: the loss and its parts, norm, rate and skipped updates.
        """
        lam = self.curriculum(state.step, self.total_steps)
        distance = self.distance(state.step, self.total_steps)
        if state.average is not None:  # there is one where `average` says so: see `init`
            teacher = self.student(state.average, base)
        terms, gradient = self.loss_and_gradient(
            state.model,
            teacher,
            batch,
            self.step_key(state.step),
            lam,
            base,
            distance,
            progress=state.step / self.total_steps,
        )
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(terms.total) & jnp.isfinite(norm)
        optimizer = self.optimizer.build(self.total_steps)
        updates, moments = optimizer.update(gradient, state.optimizer, state.model)
        model = optax.apply_updates(state.model, updates)

        def accept(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

        rate = self.optimizer.learning_rate_at(self.total_steps)
        metrics = {
            "loss": terms.total,
            "ce": terms.ce,
            "gradient_norm": norm,
            "learning_rate": rate(updates_applied(state.optimizer)),
            "bad_steps": jnp.where(finite, 0, state.bad_steps + 1),
        }
        if teacher is not None:
            metrics |= {"kl": terms.kl, "lambda": lam}
        average = state.average
        if self.average is not None:
            average = accept(optax.incremental_update(model, average, 1 - self.average), average)
        state = TrainState(
            step=state.step + 1,
            bad_steps=metrics["bad_steps"],
            model=accept(model, state.model),
            optimizer=accept(moments, state.optimizer),
            average=average,
        )
        return state, metrics
