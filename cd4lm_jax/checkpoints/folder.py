"""Model folders: ``config.json`` beside orbax ``params/`` (and the tokenizer's own files)."""

from __future__ import annotations

import os
import pathlib

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from cd4lm_jax.checkpoints import tree_files
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.transformer import Execution, Transformer, logical_axes
from cd4lm_jax.runtime import cluster, files
from cd4lm_jax.runtime.sharding import spec
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
    """The model's tree of ``jax.ShapeDtypeStruct``, with shardings where a mesh is given."""
    shapes = jax.eval_shape(lambda: Transformer(config, jax.random.key(0), execution))

    def describe(path, leaf):  # type: ignore[no-untyped-def]
        sharding = mesh and NamedSharding(mesh, spec(logical_axes(leaf_name(path))))
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(describe, shapes)


def write_model(folder: str | os.PathLike[str], model: Transformer) -> None:
    """Writes ``config.json`` and ``params/``; what else lies in the folder stays.

    On several hosts all of them call this.
    """
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    tree_files.save_tree(path / PARAMS_FOLDER, named_leaves(model))
    if cluster.is_main():
        files.write_text(path / CONFIG_FILE, config_to_json(model.config))


def read_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """The architecture of the model in a folder.

    Raises:
        CheckpointError: no model there.
    """
    file = pathlib.Path(folder) / CONFIG_FILE
    if not file.is_file():
        raise tree_files.CheckpointError(
            f"no model in {folder}: {CONFIG_FILE} is missing; give a folder that a training run "
            "exported (its 'model' folder)"
        )
    return config_from_json(ModelConfig, file.read_text(encoding="utf-8-sig"), where=str(file))


def stored_dtype(folder: str | os.PathLike[str]) -> str:
    """The dtype that a model folder's parameters are stored in."""
    return tree_files.saved_dtype(pathlib.Path(folder) / PARAMS_FOLDER)


def read_model(
    folder: str | os.PathLike[str],
    execution: Execution = Execution(),
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
) -> Transformer:
    """Reads a model folder; parameters come in ``dtype``, sharded over ``mesh`` if given.

    Raises:
        CheckpointError: no model there, or parameters that do not fit its ``config.json``.
    """
    model = abstract_model(read_config(folder), execution, dtype=dtype, mesh=mesh)
    leaves = tree_files.load_tree(pathlib.Path(folder) / PARAMS_FOLDER, named_leaves(model))
    return with_leaves(model, leaves)
