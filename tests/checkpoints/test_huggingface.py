from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from cd4lm_jax.checkpoints import huggingface, loading
from cd4lm_jax.checkpoints.array_trees import CheckpointError
from cd4lm_jax.checkpoints.families import LLADA
from cd4lm_jax.checkpoints.family import HuggingFaceError
from cd4lm_jax.checkpoints.model_folder import write_model
from cd4lm_jax.models.config import ModelConfig
from tests.tiny import TINY, forward, parameters, tiny_model

RunPython = Callable[..., subprocess.CompletedProcess[str]]

# LLaDA's config has neither head_dim nor an end of turn.
CONFIG = dataclasses.replace(TINY, qkv_bias=True, end_ids=(TINY.eos_id,))
DESCRIPTION: dict[str, Any] = {
    "model_type": "llada",
    "activation_type": "silu",
    "d_model": 32,
    "embedding_size": 40,
    "eos_token_id": 38,
    "include_bias": False,
    "include_qkv_bias": True,
    "mask_token_id": 39,
    "max_sequence_length": 64,
    "mlp_hidden_size": 48,
    "mlp_ratio": 4,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "vocab_size": 40,
    "weight_tying": False,
}


def torch_tensors(config: ModelConfig = CONFIG) -> dict[str, np.ndarray]:
    """The tiny model as LLaDA's own code would hold it: linear weights are [out, in]."""
    tensors = {}
    for name, leaf in parameters(tiny_model(config)).items():
        theirs, transpose = LLADA.tensors[name]
        for layer, array in enumerate(leaf if "{}" in theirs else [leaf]):
            full = theirs.format(layer)
            tensors[full] = np.ascontiguousarray(array.T if transpose else array)
    return tensors


def write(folder: pathlib.Path, tensors: dict[str, np.ndarray], **changes: object) -> None:
    (folder / "config.json").write_text(json.dumps(DESCRIPTION | changes))
    save_file(tensors, folder / "model.safetensors")


def test_loads_one_file(tmp_path: pathlib.Path) -> None:
    write(tmp_path, torch_tensors())
    assert huggingface.is_checkpoint(tmp_path)
    model = huggingface.read_model(tmp_path)
    assert model.config == CONFIG
    expected = parameters(tiny_model(CONFIG))
    for name, leaf in parameters(model).items():
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)


def test_loads_bfloat16_as_llada_8b_is_stored(tmp_path: pathlib.Path) -> None:
    tensors = {name: t.astype(ml_dtypes.bfloat16) for name, t in torch_tensors().items()}
    write(tmp_path, tensors)
    model = huggingface.read_model(tmp_path)
    expected = parameters(tiny_model(CONFIG))["blocks.down"].astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(parameters(model)["blocks.down"], expected.astype(np.float32))


def test_a_tied_checkpoint_needs_no_head(tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(CONFIG, tie_head=True)
    write(tmp_path, torch_tensors(config), weight_tying=True)
    assert huggingface.read_model(tmp_path).config == config


def test_says_which_tensor_is_missing(tmp_path: pathlib.Path) -> None:
    tensors = torch_tensors()
    del tensors["model.transformer.blocks.1.up_proj.weight"]
    write(tmp_path, tensors)
    with pytest.raises(HuggingFaceError, match=r"no tensor 'model.*blocks.1.up_proj.weight'"):
        huggingface.read_model(tmp_path)


def test_says_which_tensor_has_another_shape(tmp_path: pathlib.Path) -> None:
    write(tmp_path, torch_tensors(), mlp_hidden_size=50)
    message = r"0.ff_proj.weight has shape \(48, 32\), config.json makes it \(50, 32\)"
    with pytest.raises(HuggingFaceError, match=message):
        huggingface.read_model(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"), [("model_type", "gpt2"), ("alibi", True), ("layer_norm_type", "default")]
)
def test_refuses_what_it_does_not_compute(
    tmp_path: pathlib.Path, field: str, value: object
) -> None:
    write(tmp_path, torch_tensors(), **{field: value})
    with pytest.raises(HuggingFaceError, match=f"{field} is {value!r}"):
        huggingface.read_config(tmp_path)


def test_either_kind_of_folder_is_recognised_by_its_files(tmp_path: pathlib.Path) -> None:
    own, theirs = tmp_path / "own", tmp_path / "theirs"
    theirs.mkdir()
    write(theirs, torch_tensors())
    write_model(own, tiny_model())
    assert not huggingface.is_checkpoint(own)
    for folder, config in ((own, TINY), (theirs, CONFIG)):
        assert loading.load_config(folder) == loading.load_model(folder).config == config
    with pytest.raises(CheckpointError, match=r"config.json is missing"):
        loading.load_model(tmp_path)


def test_computes_the_logits_of_the_published_code(golden: pathlib.Path) -> None:
    model = huggingface.read_model(golden / "llada_tiny")
    with np.load(golden / "decoding.npz") as recorded:
        tokens, expected = recorded["forward/input_ids"], recorded["forward/logits"]
    logits = forward(model, tokens.astype(np.int32), np.ones(tokens.shape, bool))
    np.testing.assert_allclose(logits, expected, atol=3e-4)


def test_says_which_tensor_is_of_an_unknown_type(tmp_path: pathlib.Path) -> None:
    name = "model.transformer.ln_f.weight"
    write(tmp_path, torch_tensors() | {name: np.ones(32, np.float64)})
    with pytest.raises(HuggingFaceError, match=f"{name} is of type F64; expected one of F32, BF16"):
        huggingface.read_model(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "b.safetensors").unlink(), r"b\.safetensors is missing, model"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("["), "no index"),
        (
            lambda folder: save_file({"other": np.ones(3)}, folder / "b.safetensors"),
            r"b\.safetensors has no 'model.*', model\.safetensors\.index\.json says so",
        ),
    ],
)
def test_says_what_is_wrong_with_its_files(
    tmp_path: pathlib.Path, damage: Callable[[pathlib.Path], object], message: str
) -> None:
    tensors = sorted(torch_tensors().items())
    (tmp_path / "config.json").write_text(json.dumps(DESCRIPTION))
    save_file(dict(tensors[:9]), tmp_path / "a.safetensors")
    save_file(dict(tensors[9:]), tmp_path / "b.safetensors")
    files = ["a.safetensors"] * 9 + ["b.safetensors"] * (len(tensors) - 9)
    placed = {name: file for (name, _), file in zip(tensors, files, strict=True)}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": placed}))
    assert huggingface.read_model(tmp_path).config == CONFIG
    damage(tmp_path)
    with pytest.raises(HuggingFaceError, match=message):
        huggingface.read_model(tmp_path)


@pytest.mark.slow
def test_in_pieces_and_onto_a_mesh_as_in_one(tmp_path: pathlib.Path, run_python: RunPython) -> None:
    """On eight devices each reads its part; chunks of a few rows do not line up with the parts."""
    write(tmp_path, torch_tensors())
    expected = parameters(huggingface.read_model(tmp_path))
    np.savez(tmp_path / "expected.npz", allow_pickle=False, **expected)
    done = run_python("-c", _ON_A_MESH, str(tmp_path), devices=8)
    assert done.returncode == 0, done.stderr


_ON_A_MESH = """
import sys
import numpy as np
from cd4lm_jax.checkpoints import huggingface, published_tensors
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
from cd4lm_jax.runtime.trees import named_leaves
published_tensors.CHUNK_ELEMENTS = 100
mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
leaves = named_leaves(huggingface.read_model(sys.argv[1], mesh=mesh))
assert len({str(shard.index) for shard in leaves["blocks.gate"].addressable_shards}) == 4
with np.load(sys.argv[1] + "/expected.npz") as expected:
    assert set(expected) == set(leaves)
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(np.asarray(leaf), expected[name], err_msg=name)
"""


def test_says_which_tensor_is_not_of_the_model(tmp_path: pathlib.Path) -> None:
    write(tmp_path, torch_tensors() | {"model.transformer.wpe.weight": np.zeros((2, 2))})
    with pytest.raises(HuggingFaceError, match=r"'model.transformer.wpe.weight' is no tensor of"):
        huggingface.read_model(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "config.json is missing; copy it"),
        ("{", "config.json is not JSON"),
        ('{"model_type": "llada", "n_heads": 4}', "config.json has no 'vocab_size'; published"),
        ("{}", "config.json has no 'model_type'"),
    ],
)
def test_says_what_is_wrong_with_its_description(
    tmp_path: pathlib.Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(HuggingFaceError, match=message):
        huggingface.read_config(tmp_path)
