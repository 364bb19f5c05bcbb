"""Models from folders of either kind: this project's own, or a published Hugging Face layout."""

from __future__ import annotations

import os
from typing import Literal

from jax.sharding import Mesh

from cd4lm_jax.checkpoints import huggingface, model_folder
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.transformer import Execution, Transformer


def layout(folder: str | os.PathLike[str]) -> Literal["Hugging Face", "own"]:
    """Which of the two layouts a folder has, told by what lies there."""
    return "Hugging Face" if huggingface.is_checkpoint(folder) else "own"


def load_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """The architecture of the model in a folder.

    Raises:
        ValueError: no model there, or one that this port does not compute.
    """
    reader = huggingface if huggingface.is_checkpoint(folder) else model_folder
    return reader.read_config(folder)


def load_model(
    folder: str | os.PathLike[str],
    execution: Execution = Execution(),
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
) -> Transformer:
    """The model in a folder, parameters in `dtype`, sharded over `mesh` if given.

    Raises:
        ValueError: no model there, or parameters that do not fit its config.
    """
    reader = huggingface if huggingface.is_checkpoint(folder) else model_folder
    return reader.read_model(folder, execution, dtype=dtype, mesh=mesh)
