"""Model folders: `config.json` beside orbax `params/` (and the tokenizer's own files)."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from cd4lm_jax.checkpoints import array_trees, quantizing
from cd4lm_jax.checkpoints.chunks import TreeReader
from cd4lm_jax.models import quantization
from cd4lm_jax.models.axes import logical_axes
from cd4lm_jax.models.config import ModelConfig, check_dtype
from cd4lm_jax.models.quantization import Mode
from cd4lm_jax.models.transformer import Execution, Transformer
from cd4lm_jax.runtime import cluster, files
from cd4lm_jax.runtime.sharding import dividing, spec
from cd4lm_jax.runtime.trees import leaf_name, named_leaves, with_leaves
from cd4lm_jax.settings.config import config_from_json, config_to_json

if TYPE_CHECKING:
    from cd4lm_jax.checkpoints.adapters import PeftAdapters

CONFIG_FILE = "config.json"
EXPORT_FOLDER = "model"
"""In the folder of a training run."""

PARAMS_FOLDER = "params"


def abstract_model(
    config: ModelConfig,
    execution: Execution = Execution(),
    *,
    dtype: str = "float32",
    mesh: Mesh | AbstractMesh | None = None,
    quantize: Mode = "none",
) -> Transformer:
    """The model's tree of `jax.ShapeDtypeStruct`, with shardings where a mesh is given.

    Quantised kernels have dtypes of their own, `dtype` is that of the other parameters.
    """

    def make() -> Transformer:
        return quantization.quantize(Transformer(config, jax.random.key(0), execution), quantize)

    def describe(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name, sharding = leaf_name(path), None
        if mesh is not None:
            parts = dividing(spec(logical_axes(name)), leaf.shape, mesh)
            sharding = NamedSharding(mesh, parts)
        own = leaf.dtype if quantization.is_part(name) else dtype
        return jax.ShapeDtypeStruct(leaf.shape, own, sharding=sharding)

    return jax.tree_util.tree_map_with_path(describe, jax.eval_shape(make))


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
    """The dtype that a model folder's parameters are stored in, quantised kernels aside."""
    return array_trees.saved_dtype(_params(folder))


def stored_mode(folder: str | os.PathLike[str]) -> Mode:
    """How the kernels in a model folder are quantised.

    Raises:
        CheckpointError: no model there.
    """
    saved = named_leaves(array_trees.description(_params(folder)).metadata)
    return quantization.stored_mode({name: leaf.dtype for name, leaf in saved.items()})


def read_model(
    folder: str | os.PathLike[str],
    execution: Execution = Execution(),
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    verify: bool = True,
    quantize: Mode = "none",
    adapters: PeftAdapters | None = None,
) -> Transformer:
    """Reads a model folder; parameters come in `dtype`, sharded over `mesh` if given.

    Kernels that are stored quantised come so.

    Args:
        folder: where `config.json` and `params/` are.
        execution: how the model is to run.
        dtype: of the parameters.
        mesh: what they are split over.
        verify: compare the files with their checksums; folders from before there were any pass.
        quantize: what kernels that are not are quantised to, one parameter after the other.
        adapters: are added to the kernels before that.

    Raises:
        ValueError: an unknown dtype or mode.
        CheckpointError: no model there, damaged parameters, ones that do not fit its
            `config.json`, or kernels that are quantised in another way.
    """
    check_dtype(dtype, "dtype")
    quantization.check_mode(quantize)
    config, params = read_config(folder), _params(folder)
    if verify:  # before anything in it is believed
        array_trees.verify_tree(params)
    stored = stored_mode(folder)
    if stored != "none" and quantize not in ("none", stored):
        raise array_trees.CheckpointError(
            f"{folder} is quantised in {stored} already; give quantize={stored}, or the folder "
            "that it was made from"
        )
    mode = quantize if stored == "none" else stored
    model = abstract_model(config, execution, dtype=dtype, mesh=mesh, quantize=mode)
    if stored != "none" and adapters is not None:
        raise array_trees.CheckpointError(
            f"{folder} is quantised in {stored}, which adapters cannot be added to; give the "
            "folder that it was made from as their base"
        )
    if mode == "none" and adapters is None:
        return with_leaves(model, array_trees.load_tree(params, named_leaves(model), verify=False))
    # One parameter after the other: orbax would hold all of them on the host at once.
    saved = abstract_model(config, dtype=stored_dtype(folder), quantize=stored)
    array_trees.check_tree(params, named_leaves(saved))
    found = abstract_model(config, dtype=dtype, mesh=mesh, quantize=stored)
    parameters = _parameters(params, found)
    if adapters is not None:
        parameters = adapters.merged(parameters)
    return quantizing.assemble(model, "none" if stored == mode else mode, parameters)


def _parameters(params: pathlib.Path, model: Transformer) -> Iterator[tuple[str, jax.Array]]:
    """The parameters one after the other; of each a device's part is read by itself."""
    reader = TreeReader(params)
    for name, leaf in named_leaves(model).items():

        def part(index: Any, name: str = name, leaf: Any = leaf) -> np.ndarray:
            whole = (slice(*at.indices(n)) for at, n in zip(index, leaf.shape, strict=True))
            return reader.read(name, tuple(whole)).astype(leaf.dtype, copy=False)

        yield name, jax.make_array_from_callback(leaf.shape, quantizing.placement(leaf), part)


def _params(folder: str | os.PathLike[str]) -> pathlib.Path:
    params = pathlib.Path(folder) / PARAMS_FOLDER
    if not params.is_dir():
        raise array_trees.CheckpointError(
            f"no weights in {folder}: its {PARAMS_FOLDER} folder is missing, {CONFIG_FILE} is "
            "there; copy the whole folder"
        )
    return params
