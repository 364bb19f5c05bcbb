"""Models from folders of either layout: this project's own, or Hugging Face's."""

from __future__ import annotations

import os
from typing import Literal

from jax.sharding import Mesh

from cd4lm_jax.checkpoints import huggingface, model_folder
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.finite import check_finite
from cd4lm_jax.models.quantization import Mode
from cd4lm_jax.models.transformer import Execution, Transformer


def layout(folder: str | os.PathLike[str]) -> Literal["Hugging Face", "own"]:
    """Which of the two layouts a folder has, by the files in it."""
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
    verify: bool = True,
    quantize: Mode = "none",
) -> Transformer:
    """The model in a folder, parameters in `dtype`, sharded over `mesh` if given.

    Args:
        folder: of either layout.
        execution: how the model is to run.
        dtype: of the parameters.
        mesh: what they are split over.
        verify: compare the files with their checksums, where there are some. Reading every file
            once more takes seconds for a large model.
        quantize: what kernels are quantised to while they are read, see
            `cd4lm_jax.models.quantization`; `none` takes them as they are stored, quantised ones
            too.

    Raises:
        ValueError: no model there, damaged files, parameters that do not fit its config or are
            not finite, or an unknown mode or another one than they are stored in.
    """
    reader = huggingface if huggingface.is_checkpoint(folder) else model_folder
    model = reader.read_model(
        folder, execution, dtype=dtype, mesh=mesh, verify=verify, quantize=quantize
    )
    check_finite(model, str(folder))
    return model
