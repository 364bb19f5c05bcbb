"""Tiny random checkpoints as the published code of each family would save them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping

import numpy as np
from safetensors.numpy import load_file, save_file

from cd4lm_jax.checkpoints.families import DREAM, LLADA
from cd4lm_jax.checkpoints.family import Family
from cd4lm_jax.checkpoints.weight_files import INDEX_FILE
from cd4lm_jax.models.config import ModelConfig
from tests.tiny import TINY, parameters, tiny_model

# Neither family's config has head_dim or an end of turn.
LLADA_TINY = dataclasses.replace(TINY, end_ids=(TINY.eos_id,))
DREAM_TINY = dataclasses.replace(
    LLADA_TINY,
    norm_eps=1e-6,
    qkv_bias=True,
    alignment="shifted",
    confidence="sampled",
    num_layers=3,
)
CONFIGS = {"llada": LLADA_TINY, "Dream": DREAM_TINY}
FAMILIES = {"llada": LLADA, "Dream": DREAM}


def torch_tensors(family: Family, config: ModelConfig) -> dict[str, np.ndarray]:
    """The tiny model as published code would hold it: linear weights are [out, in]."""
    tensors = {}
    for name, leaf in parameters(tiny_model(config)).items():
        theirs, transpose = family.tensors[name]
        for layer, array in enumerate(leaf if "{}" in theirs else [leaf]):
            full = theirs.format(layer)
            tensors[full] = np.ascontiguousarray(array.T if transpose else array)
    return tensors


def write(
    folder: pathlib.Path, kind: str, *, dtype: str = "float32", shards: int = 1
) -> dict[str, np.ndarray]:
    """Writes a checkpoint of a family in a number of files; returns its tensors."""
    family, config = FAMILIES[kind], CONFIGS[kind]
    tensors = {n: t.astype(dtype) for n, t in torch_tensors(family, config).items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(family.describe(config, dtype)))
    names = sorted(tensors)
    placed: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file({name: tensors[name] for name in names[number::shards]}, folder / file)
        placed |= dict.fromkeys(names[number::shards], file)
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return tensors


def read(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, by the library of that name."""
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def assert_same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Same names, types and bits."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(found[name].view("u1"), tensor.view("u1"), err_msg=name)
