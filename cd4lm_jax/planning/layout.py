"""What a run holds on each device, array by array: nothing is loaded, placed or compiled."""

from __future__ import annotations

import dataclasses
import math

import jax
from jax.sharding import PartitionSpec

from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.planning.plan import bytes_of
from cd4lm_jax.runtime.mesh import abstract_mesh
from cd4lm_jax.runtime.trees import named_leaves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Array:
    """One array and how it is split over the mesh.

    Attributes:
        name: its dotted path, such as `blocks.query`.
        shape: of the whole.
        dtype: by name.
        spec: the mesh axes that split its dimensions.
        size: bytes a device.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    spec: PartitionSpec
    size: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """The arrays on a device before the first update; what an update allocates is not included.

    Attributes:
        mesh: devices along each axis.
        parts: arrays by what they are: `student` or, with LoRA, `adapters` and the `base`;
            `optimizer`; `teacher`, where it is not the base; `batch`.
        parameters: of the model.
        trained: how many numbers training changes.
    """

    mesh: dict[str, int]
    parts: dict[str, list[Array]]
    parameters: int
    trained: int

    @property
    def devices(self) -> int:
        """How many the mesh has."""
        return math.prod(self.mesh.values())

    @property
    def sizes(self) -> dict[str, float]:
        """Bytes a device of each part."""
        return {part: sum(array.size for array in arrays) for part, arrays in self.parts.items()}


def layout(config: TrainConfig, architecture: ModelConfig, *, devices: int) -> Layout:
    """Lays out a run on its mesh, which may be larger than any machine present.

    Args:
        config: the run.
        architecture: of the model that `config.init` names, or of `config.model`.
        devices: what a mesh axis of -1 takes the rest of.

    Raises:
        ValueError: a mesh that cannot split the batch or some parameter, which is named.
    """
    mesh = abstract_mesh(config.mesh, devices)
    program = config.program(architecture, mesh)
    state = program.state
    trees = {
        "student" if config.lora is None else "adapters": state.model,
        "base": program.base,
        "teacher": program.teacher,
        "optimizer": state.optimizer,
        "batch": program.batch(config.data.batch_size, config.data.max_length, config.data.pack),
    }
    return Layout(
        mesh={str(axis): size for axis, size in mesh.shape.items()},
        parts={part: _arrays(tree) for part, tree in trees.items() if tree is not None},
        parameters=architecture.num_parameters,
        trained=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.model)),
    )


def _arrays(tree: object) -> list[Array]:
    arrays = []
    for name, leaf in named_leaves(tree).items():
        try:
            size = bytes_of(leaf)
        except ValueError as error:
            raise ValueError(
                f"{name} {leaf.shape} cannot be split as {leaf.sharding.spec} over the mesh "
                f"{dict(leaf.sharding.mesh.shape)}; give sizes that divide it"
            ) from error
        arrays.append(
            Array(
                name=name,
                shape=leaf.shape,
                dtype=str(leaf.dtype),
                spec=leaf.sharding.spec,
                size=size,
            )
        )
    return arrays
