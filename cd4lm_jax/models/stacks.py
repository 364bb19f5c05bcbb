"""Layers of a stack: one of them, or all of them apart."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import jax
from flax import nnx

T = TypeVar("T")


@jax.jit
def split(model: T) -> T:
    """A model whose stack is a list of its layers."""
    apart: Any = copy.copy(model)
    count = apart.config.num_layers
    apart.blocks = nnx.List(block(model, i) for i in range(count))
    if apart.config.dense_layers:
        del apart.dense_blocks
    return apart


def block(model: Any, index: Any) -> Any:
    """A layer of a model; a traced index is that of one behind the dense ones."""
    dense = model.config.dense_layers
    if isinstance(model.blocks, nnx.List):
        return model.blocks[index]
    if isinstance(index, int) and index < dense:
        return layer(model.dense_blocks, index)
    return layer(model.blocks, index - dense)


def layer(stack: Any, index: Any) -> Any:
    """One layer of a stack of them, or of a list."""
    if isinstance(stack, list | nnx.List):
        return stack[index]
    return jax.tree.map(lambda leaf: leaf[index], stack)
