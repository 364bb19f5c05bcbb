"""The train state and the one jitted update: the same for every mesh and every objective."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from cd4lm_jax.corruption import masking
from cd4lm_jax.distillation import objective as objectives
from cd4lm_jax.distillation.batch import Batch
from cd4lm_jax.distillation.curriculum import Distance, LambdaCurriculum
from cd4lm_jax.distillation.optimizer import OptimizerConfig
from cd4lm_jax.distillation.states import Start, Visited, of_masked
from cd4lm_jax.models import lora
from cd4lm_jax.models.lora import LoraConfig
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.runtime.sharding import LogicalAxes, constrain, spec
from cd4lm_jax.runtime.trees import leaf_name

Metrics = dict[str, jax.Array]
Trained = Transformer | lora.Adapters

_EVALUATION = 2**32 - 1
"""Stands for the step in the keys of evaluation masks; no run is that long."""


class TrainState(NamedTuple):
    """What training changes.

    Attributes:
        step: int32, updates tried (one a batch), counted from 0.
        bad_steps: int32, updates skipped in a row because loss or gradient was not finite.
        model: what is trained, in float32: all parameters, or adapters of a frozen base.
        optimizer: optax state.
        average: moving average of ``model``, where that is the teacher.
    """

    step: jax.Array
    bad_steps: jax.Array
    model: Trained
    optimizer: Any
    average: Trained | None = None

    @classmethod
    def create(
        cls, model: Trained, optimizer: optax.GradientTransformation, *, averaged: bool = False
    ) -> TrainState:
        """A state before its first update."""
        # Two arrays, not one twice: a buffer can be donated only once.
        step, bad_steps = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        average = jax.tree.map(jnp.copy, model) if averaged else None
        return cls(step, bad_steps, model, optimizer.init(model), average)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
    """Everything static about an update; hashable, so it can be closed over by jit.

    Attributes:
        corruption: how answers are masked: by chance, or as a decoder would leave them.
        objective: what the loss is.
        curriculum: lambda over training; unused without a teacher.
        distance: passes that the teacher is ahead, in states that a decoder visits.
        average: the teacher is a moving average of the student, which keeps this share of itself
            in an update (Mean Teacher, Tarvainen & Valpola, 1703.01780; consistency models,
            2303.01469). None leaves the teacher as it is.
        optimizer: AdamW's settings.
        total_steps: length of the run, which the schedules follow.
        seed: of the masks.
        accumulate: parts that a batch is worked off in, one after the other, to save memory; the
            update is that of the whole batch.
        lora: trains adapters of a frozen base instead of all parameters.
    """

    corruption: masking.Corruption | Visited
    objective: objectives.Objective
    curriculum: LambdaCurriculum
    optimizer: OptimizerConfig
    total_steps: int
    seed: int
    distance: Distance = Distance()
    average: float | None = None
    accumulate: int = 1
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"accumulate={self.accumulate}; give 1 (whole batches) or more")
        if self.accumulate > 1 and self.objective.clamp:
            raise ValueError(
                "objective.clamp bounds the loss of a whole batch, which accumulate="
                f"{self.accumulate} never forms; give accumulate=1 or clamp=false"
            )
        if self.average is not None and not 0 <= self.average < 1:
            raise ValueError(f"average={self.average}; give a share of 0 or more and below 1")

    def init(self, model: Transformer) -> TrainState:
        """A fresh state around ``model``, or with LoRA of fresh adapters of it."""
        trained: Trained = model
        if self.lora is not None:
            trained = lora.create(self.lora, model, jax.random.key(self.seed))
        averaged = self.average is not None
        return TrainState.create(trained, self.optimizer.build(self.total_steps), averaged=averaged)

    def student(self, trained: Trained, base: Transformer | None) -> Transformer:
        """The model that is trained: with LoRA, ``base`` with its adapters on."""
        if isinstance(trained, Transformer):
            return trained
        assert self.lora is not None  # what `init` made adapters by
        assert base is not None  # the caller's to give with LoRA
        return lora.attach(self.lora, base, trained)

    def merged(self, trained: Trained, base: Transformer | None) -> Transformer:
        """The model that was trained as an ordinary one, to be exported."""
        if isinstance(trained, Transformer):
            return trained
        assert self.lora is not None
        assert base is not None
        return lora.merge(self.lora, base, trained)

    def loss(
        self,
        model: Transformer,
        teacher: Transformer | None,
        batch: Batch,
        views: masking.Views,
        lam: jax.Array,
    ) -> objectives.Terms:
        """The loss of a batch, or of some of its rows, under given masks."""
        states = of_masked(model, batch, views.student)
        targets, weight = batch.tokens.reshape(-1), views.weight.reshape(-1)
        expert = None if teacher is None else of_masked(teacher, batch, views.teacher)
        guessed = views.teacher.reshape(-1)
        return objectives.loss(self.objective, states, expert, targets, weight, lam, guessed)

    def views(
        self,
        student: Transformer,
        teacher: Transformer | None,
        batch: Batch,
        key: jax.Array,
        distance: jax.Array | int = 1,
    ) -> tuple[Batch, masking.Views]:
        """What a batch shows, and its masks: drawn by ``key``, with :class:`Visited` decoded."""
        states = self.corruption
        if isinstance(states, masking.Corruption):
            return batch, states.views(key, batch.index, batch.answer)
        follows = student if states.by == "student" else teacher
        assert follows is not None  # TrainConfig checks

        def decoded(part: tuple[Batch, Start]) -> tuple[jax.Array, jax.Array, jax.Array]:
            batch, start = part
            behind = states.student(follows, batch, start)
            if teacher is None:
                return behind.tokens, behind.hidden, jnp.zeros_like(behind.hidden)
            ahead = states.teacher(follows, batch, start, behind, distance)
            return ahead.tokens, behind.hidden, ahead.hidden

        start = states.start(key, batch, follows.config.end_ids)
        if self.accumulate == 1:
            found = decoded((batch, start))
        else:  # a forward pass of the whole batch may not fit either
            parts = jax.tree.map(self._split, (batch, start))
            found = jax.tree.map(self._joined, lax.map(decoded, parts))
        tokens, *masks = found
        return dataclasses.replace(batch, tokens=tokens), states.views(batch, *masks)

    def loss_and_gradient(
        self,
        trained: Trained,
        teacher: Transformer | None,
        batch: Batch,
        key: jax.Array,
        lam: jax.Array,
        base: Transformer | None = None,
        distance: jax.Array | int = 1,
    ) -> tuple[objectives.Terms, Trained]:
        """Loss terms of a batch under the masks that ``key`` draws, and the gradient."""
        batch, views = self.views(self.student(trained, base), teacher, batch, key, distance)

        def part(batch: Batch, views: masking.Views) -> tuple[objectives.Terms, Trained]:
            def total(trained: Trained) -> tuple[jax.Array, objectives.Terms]:
                terms = self.loss(self.student(trained, base), teacher, batch, views, lam)
                return terms.total, terms

            gradient, terms = jax.grad(total, has_aux=True)(trained)
            return terms, gradient

        if self.accumulate == 1:
            return part(batch, views)
        # Weights sum to one over the whole batch, so its loss is the sum of its parts'.
        parts = jax.tree.map(self._split, (batch, views))
        zero = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(part, batch, views)
        )

        def add(sums: Any, rows: Any) -> tuple[Any, None]:
            terms, gradient = jax.tree.map(jnp.add, sums, part(*rows))
            return (terms, _as_parameters(gradient)), None

        return lax.scan(add, zero, parts)[0]

    def _split(self, array: jax.Array) -> jax.Array:
        """``[batch, ...]`` as ``[accumulate, batch / accumulate, ...]``.

        Rows are dealt out in turn, so that each part is spread over the devices as the whole is.
        """
        rows = array.shape[0]
        if rows % self.accumulate:
            raise ValueError(
                f"accumulate={self.accumulate} does not divide the batch of {rows} rows; give one "
                "that does"
            )
        dealt = array.reshape(rows // self.accumulate, self.accumulate, *array.shape[1:])
        return dealt.swapaxes(0, 1)

    def _joined(self, parts: jax.Array) -> jax.Array:
        """The inverse of :meth:`_split`."""
        return parts.swapaxes(0, 1).reshape(-1, *parts.shape[2:])

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
        """
        key = jax.random.fold_in(jax.random.key(self.seed), state.step)
        lam = self.curriculum(state.step, self.total_steps)
        distance = self.distance(state.step, self.total_steps)
        if state.average is not None:  # there is one where `average` says so: see `init`
            teacher = self.student(state.average, base)
        terms, gradient = self.loss_and_gradient(
            state.model, teacher, batch, key, lam, base, distance
        )
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(terms.total) & jnp.isfinite(norm)
        optimizer = self.optimizer.build(self.total_steps)
        updates, moments = optimizer.update(gradient, state.optimizer, state.model)
        model = optax.apply_updates(state.model, updates)

        def accept(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

        metrics = {
            "loss": terms.total,
            "ce": terms.ce,
            "gradient_norm": norm,
            "learning_rate": self.optimizer.learning_rate_at(self.total_steps)(state.step),
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

    def evaluate(
        self,
        trained: Trained,
        teacher: Transformer | None,
        batch: Batch,
        base: Transformer | None = None,
    ) -> Metrics:
        """Loss terms of a validation batch, under masks and a lambda that never change.

        States and teachers that move with the student would make losses that do not compare: where
        it is judged in states that a decoder visits, they are the first ones of a block, on text.
        """
        key = jax.random.fold_in(jax.random.key(self.seed), _EVALUATION)
        lam = jnp.float32(self.curriculum.final)
        student = self.student(trained, base)
        if isinstance(self.corruption, Visited):
            teacher = None
            start = self.corruption.start(key, batch, student.config.end_ids)
            views = self.corruption.views(batch, start.hidden, start.hidden)
        else:
            views = self.corruption.views(key, batch.index, batch.answer)
        terms = self.loss(student, teacher, batch, views, lam)
        metrics = {"loss": terms.total, "ce": terms.ce}
        return metrics | ({"kl": terms.kl} if teacher is not None else {})


def placed(mesh: Mesh | AbstractMesh, state: TrainState) -> TrainState:
    """The shapes of a state with their shardings on ``mesh``: moments lie as what they are of."""

    def place(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, spec(_axes(path, leaf)))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, state)


def _axes(path: Any, leaf: Any) -> LogicalAxes:
    """Logical axes of a leaf of a state; what is no parameter's size is on every device."""
    axes = lora.logical_axes(leaf_name(path))
    return axes if len(axes) == leaf.ndim else ()


def _as_parameters(gradient: Trained) -> Trained:
    """``gradient`` split over the mesh as the parameters are, which XLA would not see to."""

    def pin(path: Any, leaf: jax.Array) -> jax.Array:
        return constrain(leaf, _axes(path, leaf))

    return jax.tree_util.tree_map_with_path(pin, gradient)
