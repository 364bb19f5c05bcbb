"""Models from folders of either kind: this project's own, or LLaDA's Hugging Face layout."""

from __future__ import annotations

import os
import pathlib
import shutil
from typing import Literal

from jax.sharding import Mesh

from cd4lm_jax.model import folder as native
from cd4lm_jax.model import huggingface
from cd4lm_jax.model.config import ModelConfig
from cd4lm_jax.model.transformer import Execution, Transformer
from cd4lm_jax.runtime import files

# What makes a folder a whole model besides config and weights.
_COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


def layout(folder: str | os.PathLike[str]) -> Literal["Hugging Face", "own"]:
    """Which of the two layouts a folder has, told by what lies there."""
    return "Hugging Face" if huggingface.is_checkpoint(folder) else "own"


def load_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """The architecture of the model in a folder.

    Raises:
        ValueError: no model there, or one that this port does not compute.
    """
    reader = huggingface if huggingface.is_checkpoint(folder) else native
    return reader.read_config(folder)


def load_model(
    folder: str | os.PathLike[str],
    execution: Execution = Execution(),
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
) -> Transformer:
    """The model in a folder, parameters in ``dtype``, sharded over ``mesh`` if given.

    Raises:
        ValueError: no model there, or parameters that do not fit its config.
    """
    reader = huggingface if huggingface.is_checkpoint(folder) else native
    return reader.read_model(folder, execution, dtype=dtype, mesh=mesh)


def convert(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, dtype: str | None = None
) -> Transformer:
    """Writes the model of one layout as a folder of the other.

    Args:
        source: a model folder; its tokenizer and generation settings are copied.
        target: appears when it is complete; must not hold anything yet.
        dtype: what parameters are stored in; None: as in the source.

    Returns:
        The model.

    Raises:
        ValueError: no model in ``source``, one that cannot be expressed in the other layout, or a
            ``target`` that is in use.
        OSError: the disk is full; nothing is left behind.
    """
    source, target = pathlib.Path(source), pathlib.Path(target)
    if target.is_dir() and any(target.iterdir()):
        raise ValueError(f"{target} is not empty; give a folder that is, or that does not exist")
    one_way = huggingface.is_checkpoint(source)
    reader, writer = (huggingface, native) if one_way else (native, huggingface)
    reader.read_config(source)  # says what is wrong with a folder that holds no model
    model = reader.read_model(source, dtype=dtype or reader.stored_dtype(source))
    with files.atomic_folder(target) as fresh:
        writer.write_model(fresh, model)
        for name in _COMPANIONS:
            if (source / name).is_file():
                shutil.copy2(source / name, fresh / name)
    return model
