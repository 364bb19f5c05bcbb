"""Layers of a stack: one of them, all of them apart, or all one after the other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from cd4lm_jax.models.attention import KeyValueCache, KeyValues
from cd4lm_jax.models.block import Block
from cd4lm_jax.models.window import Window
from cd4lm_jax.runtime.trees import named_leaves

T = TypeVar("T")


def split(model: T, *, consume: bool = False) -> T:
    """A model whose stack is a list of its layers; one that is such already is returned.

    Args:
        model: a `Transformer`, or its shapes.
        consume: delete each array of the stack once it is apart, so that memory holds only one of
            them twice; `model` is of no use afterwards.
    """
    apart: Any = copy.copy(model)
    if isinstance(apart.blocks, nnx.List):
        return model
    layers: list[Block] = []
    for stack in _stacks(apart):
        leaves, structure = jax.tree.flatten(stack)
        parts = []
        for leaf in leaves:
            parts.append(_unstacked(leaf))
            if consume:
                leaf.delete()
        layers += [jax.tree.unflatten(structure, each) for each in zip(*parts, strict=True)]
    apart.blocks = nnx.List(layers)
    if apart.config.dense_layers:
        del apart.dense_blocks
    return apart


def join(model: T) -> T:
    """A model whose layers are a stack: the inverse of `split`. It holds the weights once more."""
    whole: Any = copy.copy(model)
    if not isinstance(whole.blocks, nnx.List):
        return model
    layers, dense = list(whole.blocks), whole.config.dense_layers
    stacks = [
        jax.tree.map(lambda *each: jnp.stack(each), *part)
        for part in (layers[:dense], layers[dense:])
        if part
    ]
    whole.blocks = stacks[-1]
    if dense:
        whole.dense_blocks = stacks[0]
    return whole


def named_stacks(model: Any) -> dict[str, Any]:
    """The parameters of a model by dotted name, those of layers as `Layers` where it is apart."""
    named = named_leaves(model)
    if not isinstance(model.blocks, nnx.List):
        return named
    found = {name: leaf for name, leaf in named.items() if not name.startswith("blocks.")}
    dense = model.config.dense_layers
    for name, layers in (("dense_blocks", model.blocks[:dense]), ("blocks", model.blocks[dense:])):
        each = [named_leaves(layer) for layer in layers]
        for leaf in each[0] if each else ():
            found[f"{name}.{leaf}"] = Layers([leaves[leaf] for leaves in each])
    return found


class Layers:
    """A parameter of layers that are apart, read as the stack of them.

    Attributes:
        dtype, shape, ndim, nbytes: of the stack.
    """

    def __init__(self, layers: Sequence[jax.Array]) -> None:
        self._layers = layers
        self.dtype = layers[0].dtype
        self.shape = (len(layers), *layers[0].shape)
        self.ndim = len(self.shape)
        self.nbytes = sum(layer.nbytes for layer in layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, part: slice) -> jax.Array:
        return jnp.stack(self._layers[part])


def _stacks(model: Any) -> list[Any]:
    """The dense layers, where there are any, and the others."""
    return [model.dense_blocks, model.blocks] if model.config.dense_layers else [model.blocks]


def _unstacked(leaf: jax.Array) -> list[jax.Array]:
    """The layers of an array, each split over the mesh as the array is."""
    sharding = getattr(leaf, "sharding", None)
    if isinstance(sharding, NamedSharding):
        sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    else:
        sharding = None
    return jax.jit(list, out_shardings=sharding)(leaf)


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


def run(
    model: Any,
    x: jax.Array,
    angles: tuple[jax.Array, jax.Array],
    attention_mask: jax.Array,
    window: Window | None = None,
    cache: KeyValueCache | None = None,
    *,
    keep: bool = False,
) -> tuple[jax.Array, KeyValueCache | None]:
    """The residual stream behind all layers of a model.

    Args:
        model: a `Transformer`.
        x: the residual stream before them, `[batch, length, embed]`.
        angles: as for `Block`, and so are `attention_mask` and `cache`, of all layers.
        attention_mask: see there.
        window: the positions whose output is wanted; None for all.
        cache: see there.
        keep: also return the keys and values that were computed.
    """

    def apply(
        one: Block, x: jax.Array, cache: KeyValues | None, window: Window | None = None
    ) -> tuple[jax.Array, KeyValues | None]:
        x, computed = one(x, angles, attention_mask, window, cache)
        return x, computed if keep else None

    middle = apply
    if model.execution.remat == "full":
        middle = jax.checkpoint(apply)
    elif model.execution.remat == "dots":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        middle = jax.checkpoint(apply, policy=policy)

    def at(index: int | jax.Array) -> tuple[Block, KeyValues | None]:
        return block(model, index), layer(cache, index)

    dense, last = model.config.dense_layers, model.config.num_layers - 1

    def end(x: jax.Array) -> tuple[jax.Array, KeyValues | None]:
        one, cached = at(last)
        return apply(one, x, cached, window) if window else middle(one, x, cached)

    kept: list[Any] = []
    for index in range(dense if model.execution.scan_layers else last):
        one, cached = at(index)
        x, computed = middle(one, x, cached)
        kept.append(computed)
    if not model.execution.scan_layers:
        x, computed = end(x)
        return x, [*kept, computed] if keep else None
    if window is None and cache is None and not keep:
        return lax.scan(lambda x, one: middle(one, x, None), x, model.blocks)[0], None

    # The last block differs, so the scan goes over indices: slicing the stack itself would
    # copy all but one layer of the weights.
    def step(x: jax.Array, index: jax.Array) -> tuple[jax.Array, KeyValues | None]:
        one, cached = at(index)
        return middle(one, x, cached)

    x, most = lax.scan(step, x, jnp.arange(dense, last))
    x, computed = end(x)
    *first, final = (jax.tree.map(lambda array: array[None], each) for each in [*kept, computed])
    return x, jax.tree.map(lambda *parts: jnp.concatenate(parts), *first, most, final)
