"""What a conversion starts from: the parameters of a folder, and what it may be continued by."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from typing import Any

import jax

from cd4lm_jax.checkpoints import (
    array_trees,
    model_folder,
    published_tensors,
)
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.quantization import Mode
from cd4lm_jax.runtime.trees import named_leaves


class ConversionError(ValueError):
    """A conversion that cannot be begun or continued."""


def begun(source: pathlib.Path, inputs: Iterable[pathlib.Path], **settings: Any) -> dict[str, Any]:
    """What must be the same for a conversion to be continued."""
    states = {}
    for file in sorted(inputs):
        status = file.stat()
        states[str(file.relative_to(source))] = [status.st_size, status.st_mtime_ns]
    return {"inputs": states, "chunk": published_tensors.CHUNK_ELEMENTS, **settings}


def leaves(
    config: ModelConfig, dtype: str, quantize: Mode = "none"
) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a model's parameters by their dotted names."""
    return named_leaves(model_folder.abstract_model(config, dtype=dtype, quantize=quantize))


def checked_params(
    source: pathlib.Path, config: ModelConfig, verify: bool
) -> tuple[pathlib.Path, str]:
    """The folder of a model's parameters and what they are stored in.

    Raises:
        ConversionError: they are quantised.
        CheckpointError: they do not fit the config, or are damaged.
    """
    params, saved = source / model_folder.PARAMS_FOLDER, model_folder.stored_dtype(source)
    mode = model_folder.stored_mode(source)
    if mode != "none":
        raise ConversionError(
            f"{source} is quantised in {mode}, which no published layout holds and nothing undoes; "
            "convert the folder that it was made from"
        )
    array_trees.check_tree(params, leaves(config, saved))
    if verify:
        array_trees.verify_tree(params)
    return params, saved
