"""Model folders: `config.json` beside orbax `params/` (and the tokenizer's own files)."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from cd4lm_jax.checkpoints import array_trees
from cd4lm_jax.models.config import ModelConfig, check_dtype
from cd4lm_jax.models.transformer import Execution, Transformer, logical_axes
from cd4lm_jax.runtime import cluster, files
from cd4lm_jax.runtime.sharding import dividing, spec
from cd4lm_jax.runtime.trees import leaf_name, named_leaves, with_leaves
from cd4lm_jax.settings.config import config_from_json, config_to_json

CONFIG_FILE = "config.json"
PARAMS_FOLDER = "params"


def abstract_model(
    config: ModelConfig,
    execution: Execution = Execution(),
    *,
    dtype: str = "float32",
    mesh: Mesh | AbstractMesh | None = None,
) -> Transformer:
    """The model's tree of `jax.ShapeDtypeStruct`, with shardings where a mesh is given."""
    shapes = jax.eval_shape(lambda: Transformer(config, jax.random.key(0), execution))

    def describe(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = None
        if mesh is not None:
            parts = spec(logical_axes(leaf_name(path)))
            sharding = NamedSharding(mesh, dividing(parts, leaf.shape, mesh))
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(describe, shapes)


def write_model(folder: str | os.PathLike[str], model: Transformer) -> None:
    """Writes `config.json` and `params/`; other files in the folder stay.

    On several hosts all of them call this.
    """
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    array_trees.save_tree(path / PARAMS_FOLDER, named_leaves(model))
    if cluster.is_main():
        files.write_text(path / CONFIG_FILE, config_to_json(model.config))


def read_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """The architecture of the model in a folder.

    Raises:
        CheckpointError: no model there.
    """
    file = pathlib.Path(folder) / CONFIG_FILE
    if not file.is_file():
        raise array_trees.CheckpointError(
            f"no model in {folder}: {CONFIG_FILE} is missing; give a folder that a training run "
            "exported (its 'model' folder) or a published one"
        )
    try:
        text = files.read_text(file)
    except ValueError as error:
        raise array_trees.CheckpointError(f"{error}; copy it again") from None
    return config_from_json(ModelConfig, text, where=str(file))


def stored_dtype(folder: str | os.PathLike[str]) -> str:
    """The dtype that a model folder's parameters are stored in."""
    return array_trees.saved_dtype(_params(folder))


def read_model(
    folder: str | os.PathLike[str],
    execution: Execution = Execution(),
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    verify: bool = True,
) -> Transformer:
    """Reads a model folder; parameters come in `dtype`, sharded over `mesh` if given.

    Args:
        folder: where `config.json` and `params/` are.
        execution: how the model is to run.
        dtype: of the parameters.
        mesh: what they are split over.
        verify: compare the files with their checksums; folders from before there were any pass.

    Raises:
        ValueError: an unknown dtype.
        CheckpointError: no model there, damaged parameters, or ones that do not fit its
            `config.json`.
    """
    check_dtype(dtype, "dtype")
    model = abstract_model(read_config(folder), execution, dtype=dtype, mesh=mesh)
    params = _params(folder)
    return with_leaves(model, array_trees.load_tree(params, named_leaves(model), verify=verify))


def _params(folder: str | os.PathLike[str]) -> pathlib.Path:
    params = pathlib.Path(folder) / PARAMS_FOLDER
    if not params.is_dir():
        raise array_trees.CheckpointError(
            f"no weights in {folder}: its {PARAMS_FOLDER} folder is missing, {CONFIG_FILE} is "
            "there; copy the whole folder"
        )
    return params
