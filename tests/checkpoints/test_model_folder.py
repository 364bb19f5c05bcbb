from __future__ import annotations

import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from cd4lm_jax.checkpoints.array_trees import CheckpointError
from cd4lm_jax.checkpoints.model_folder import read_config, read_model, write_model
from cd4lm_jax.models.axes import logical_axes
from cd4lm_jax.models.transformer import Execution
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
from cd4lm_jax.runtime.sharding import spec
from cd4lm_jax.settings.config import config_to_json
from tests.tiny import TINY, parameters, tiny_model


def test_comes_back_bit_for_bit_and_leaves_other_files(tmp_path: pathlib.Path) -> None:
    model = tiny_model(dataclasses.replace(TINY, qkv_bias=True))
    (tmp_path / "tokenizer.json").write_text("{}")
    write_model(tmp_path, model)
    loaded = read_model(tmp_path, Execution(scan_layers=False))
    assert loaded.config == model.config
    assert loaded.execution == Execution(scan_layers=False)
    before, after = parameters(model), parameters(loaded)
    assert before.keys() == after.keys()
    for name, leaf in before.items():
        np.testing.assert_array_equal(after[name], leaf, err_msg=name)
    assert (tmp_path / "tokenizer.json").read_text() == "{}"


def test_saves_over_an_earlier_model(tmp_path: pathlib.Path) -> None:
    write_model(tmp_path, tiny_model(seed=1))
    write_model(tmp_path, tiny_model(seed=2))
    embedding = parameters(read_model(tmp_path))["embedding"]
    np.testing.assert_array_equal(embedding, parameters(tiny_model(seed=2))["embedding"])


def test_loads_in_another_dtype_and_onto_a_mesh(tmp_path: pathlib.Path) -> None:
    write_model(tmp_path, tiny_model())
    mesh = make_mesh(MeshConfig())
    query = read_model(tmp_path, dtype="bfloat16", mesh=mesh).blocks.query[...]
    assert query.dtype == jnp.bfloat16
    assert query.sharding == NamedSharding(mesh, spec(logical_axes("query")))
    expected = jnp.asarray(parameters(tiny_model())["blocks.query"], jnp.bfloat16)
    np.testing.assert_array_equal(query, expected)


def test_says_that_there_is_no_model(tmp_path: pathlib.Path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json is missing; give a folder"):
        read_config(tmp_path)


def test_refuses_parameters_of_another_shape(tmp_path: pathlib.Path) -> None:
    write_model(tmp_path, tiny_model())
    other = dataclasses.replace(TINY, mlp_dim=64)
    (tmp_path / "config.json").write_text(config_to_json(other))
    with pytest.raises(CheckpointError, match=r"has shape \(2, \d+, \d+\) there, expected"):
        read_model(tmp_path)


def test_refuses_parameters_of_another_architecture(tmp_path: pathlib.Path) -> None:
    write_model(tmp_path, tiny_model())
    other = dataclasses.replace(TINY, qkv_bias=True)
    (tmp_path / "config.json").write_text(config_to_json(other))
    with pytest.raises(CheckpointError, match=r"it has no 'blocks.*bias'"):
        read_model(tmp_path)
