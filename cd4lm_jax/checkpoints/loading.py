"""Models from folders of either layout: this project's own, or Hugging Face's."""

from __future__ import annotations

import os
import pathlib
from typing import Any, Literal

from jax.sharding import Mesh

from cd4lm_jax.checkpoints import huggingface, model_folder, peft
from cd4lm_jax.checkpoints.family import HuggingFaceError
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.finite import check_finite
from cd4lm_jax.models.quantization import Mode
from cd4lm_jax.models.transformer import Execution, Transformer


def layout(folder: str | os.PathLike[str]) -> Literal["Hugging Face", "own"]:
    """Which of the two layouts a folder has, by the files in it."""
    return "Hugging Face" if huggingface.is_checkpoint(folder) else "own"


def located(folder: str | os.PathLike[str]) -> pathlib.Path:
    """The folder of a model: the one given, or the one that a training run exported in it."""
    path = pathlib.Path(folder)
    exported = path / model_folder.EXPORT_FOLDER
    return exported if (exported / model_folder.CONFIG_FILE).is_file() else path


def weights_of(
    folder: str | os.PathLike[str], base: str | os.PathLike[str] | None = None
) -> pathlib.Path:
    """Where the weights of a model lie: its own folder, or for adapters of peft that of their base.

    Args:
        folder: as for `load_model`.
        base: the model that adapters are of; None for the one that they name.

    Raises:
        ValueError: adapters whose base is no folder, or a base for a folder without adapters.
    """
    path = located(folder)
    if not peft.lies_in(path):
        if base is not None:
            raise ValueError(
                f"base={base} is for adapters of peft; {folder} has none, leave it out"
            )
        return path
    return peft.base_of(path) if base is None else located(base)


def load_config(
    folder: str | os.PathLike[str], base: str | os.PathLike[str] | None = None
) -> ModelConfig:
    """The architecture of the model in a folder; `base` as for `load_model`.

    Raises:
        ValueError: no model there, or one that this port does not compute.
    """
    weights = weights_of(folder, base)
    reader = huggingface if huggingface.is_checkpoint(weights) else model_folder
    return reader.read_config(weights)


def stored_dtype(folder: str | os.PathLike[str], base: str | os.PathLike[str] | None = None) -> str:
    """The dtype that the weights of a folder are stored in; float32 where they differ.

    Raises:
        ValueError: no model there.
    """
    weights = weights_of(folder, base)
    if not huggingface.is_checkpoint(weights):
        return model_folder.stored_dtype(weights)
    checkpoint = huggingface.Checkpoint.open(weights, verify=False)
    try:
        return checkpoint.dtype()
    except HuggingFaceError:
        return "float32"


def stored_mode(folder: str | os.PathLike[str]) -> Mode:
    """How the kernels in a folder are quantised; those of published ones are not.

    Raises:
        ValueError: no model there.
    """
    weights = weights_of(folder)
    return "none" if huggingface.is_checkpoint(weights) else model_folder.stored_mode(weights)


def load_model(
    folder: str | os.PathLike[str],
    execution: Execution = Execution(),
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    verify: bool = True,
    quantize: Mode = "none",
    base: str | os.PathLike[str] | None = None,
) -> Transformer:
    """The model in a folder, parameters in `dtype`, sharded over `mesh` if given.

    Adapters of peft are added to the weights beside them, or to those of the folder that they name.

    Args:
        folder: of either layout, or of peft; or of a training run that exported a model.
        execution: how the model is to run.
        dtype: of the parameters.
        mesh: what they are split over.
        verify: compare the files with their checksums, where there are some. Reading every file
            once more takes seconds for a large model.
        quantize: what kernels are quantised to while they are read, see
            `cd4lm_jax.models.quantization`; `none` takes them as they are stored, quantised ones
            too.
        base: where the model is that the adapters in `folder` are of; None for the one they name.

    Raises:
        ValueError: no model there, damaged files, parameters that do not fit its config or are
            not finite, an unknown mode or another one than they are stored in, or adapters that do
            not fit their base.
    """
    options: dict[str, Any] = {"dtype": dtype, "mesh": mesh, "verify": verify, "quantize": quantize}
    folder, weights = located(folder), weights_of(folder, base)
    if peft.lies_in(folder):
        options["adapters"] = peft.read(folder, load_config(folder, base))
    reader = huggingface if huggingface.is_checkpoint(weights) else model_folder
    model = reader.read_model(weights, execution, **options)
    check_finite(model, str(folder))
    return model
