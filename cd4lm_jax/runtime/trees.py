"""Trees of parameters as flat dictionaries of named arrays: what is stored on disk."""

from __future__ import annotations

from typing import Any, TypeVar

import jax

T = TypeVar("T")


def leaf_name(path: tuple[Any, ...]) -> str:
    """A leaf's dotted name, such as `blocks.query`; the box of an NNX variable is left out.

    What is in the box is an array, or a node whose children have keys (`blocks.query.scales`).
    """
    names = [
        str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path
    ]
    if names[-1:] == ["value"]:
        return ".".join(names[:-1])
    if path[-2:-1] == (jax.tree_util.GetAttrKey("value"),):
        del names[-2]
    return ".".join(names)


def named_leaves(tree: Any) -> dict[str, Any]:
    """Every leaf under its dotted name, in the order of the tree."""
    return {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def with_leaves(tree: T, leaves: dict[str, Any]) -> T:
    """`tree` with each leaf replaced by the one of its name; the inverse of `named_leaves`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[leaf_name(path)], tree)
