from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cd4lm_jax.model import huggingface, loading
from cd4lm_jax.model.config import ModelConfig
from cd4lm_jax.model.folder import write_model
from cd4lm_jax.model.huggingface import HuggingFaceError
from cd4lm_jax.runtime.checkpoint import CheckpointError
from tests.models import TINY, forward, parameters, tiny_model

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
        theirs, transpose = huggingface.LLADA_TENSORS[name]
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
    message = r"0.ff_out.weight has shape \(32, 48\), config.json makes it \(32, 50\)"
    with pytest.raises(HuggingFaceError, match=message):
        huggingface.read_model(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"), [("model_type", "llama"), ("alibi", True), ("layer_norm_type", "default")]
)
def test_refuses_what_it_does_not_compute(
    tmp_path: pathlib.Path, field: str, value: object
) -> None:
    write(tmp_path, torch_tensors(), **{field: value})
    with pytest.raises(HuggingFaceError, match=f"{field} is {value!r}"):
        huggingface.read_config(tmp_path)


def test_either_kind_of_folder_is_told_by_what_lies_there(tmp_path: pathlib.Path) -> None:
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


def all_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    return {
        n: t for file in sorted(folder.glob("*.safetensors")) for n, t in load_file(file).items()
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_there_and_back_again_is_bit_exact(tmp_path: pathlib.Path, dtype: str) -> None:
    first, middle, last = (tmp_path / name for name in ("first", "middle", "last"))
    first.mkdir()
    (first / "generation_config.json").write_text('{"eos_token_id": 38}')
    write(first, {name: t.astype(dtype) for name, t in torch_tensors().items()})
    loading.convert(first, middle)
    assert (loading.layout(middle), loading.layout(last)) == ("own", "own")
    loading.convert(middle, last)
    assert loading.layout(last) == "Hugging Face"
    before, after = all_tensors(first), all_tensors(last)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == dtype
        np.testing.assert_array_equal(after[name].view(np.uint8), tensor.view(np.uint8))
    assert loading.load_config(last) == CONFIG
    described = json.loads((last / "config.json").read_text())
    assert DESCRIPTION.items() <= described.items()
    assert described["torch_dtype"] == dtype
    assert (last / "generation_config.json").read_text() == '{"eos_token_id": 38}'


def test_the_published_checkpoint_goes_there_and_back(
    golden: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source, middle, last = golden / "llada_tiny", tmp_path / "middle", tmp_path / "last"
    loading.convert(source, middle)
    loading.convert(middle, last)
    before, after = all_tensors(source), all_tensors(last)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, err_msg=name)
    published = json.loads((source / "config.json").read_text())
    ours = json.loads((last / "config.json").read_text())
    assert published.keys() - ours.keys() == {"transformers_version"}
    differ = {key for key, value in published.items() if ours.get(key, value) != value}
    assert differ <= {"bias_for_layer_norm"}  # None there, False in LLaDA-8B's own
    index = json.loads((last / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == before.keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in before.values())


def test_shards_hold_no_more_than_asked_and_load(tmp_path: pathlib.Path) -> None:
    model = tiny_model(CONFIG)
    huggingface.write_model(tmp_path, model, shard_bytes=10_000)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    for shard in shards:
        tensors = load_file(shard)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 10_000
    expected = parameters(model)
    for name, leaf in parameters(huggingface.read_model(tmp_path)).items():
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)


def test_end_tokens_survive_the_export(tmp_path: pathlib.Path) -> None:
    huggingface.write_model(tmp_path, tiny_model(TINY))
    assert huggingface.read_config(tmp_path) == TINY


@pytest.mark.parametrize("changes", [{"alignment": "shifted"}, {"head_dim": 16}])
def test_refuses_to_export_what_llada_cannot_compute(
    tmp_path: pathlib.Path, changes: dict[str, Any]
) -> None:
    model = tiny_model(dataclasses.replace(TINY, **changes))
    with pytest.raises(HuggingFaceError, match="so it cannot be exported"):
        huggingface.write_model(tmp_path, model)
    assert not list(tmp_path.iterdir())


def test_says_which_tensor_is_not_of_the_model(tmp_path: pathlib.Path) -> None:
    write(tmp_path, torch_tensors() | {"model.transformer.wpe.weight": np.zeros((2, 2))})
    with pytest.raises(HuggingFaceError, match=r"'model.transformer.wpe.weight' is no tensor of"):
        huggingface.read_model(tmp_path)


def test_convert_keeps_off_a_folder_in_use(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="target is not empty; give a folder that is, or "):
        loading.convert(tmp_path, target)
    with pytest.raises(CheckpointError, match=r"config.json is missing"):
        loading.convert(tmp_path, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "config.json is missing; copy it"),
        ("{", "config.json is not JSON"),
        ('{"model_type": "llada", "n_heads": 4}', "config.json has no 'd_model'; LLaDA's own has"),
    ],
)
def test_says_what_is_wrong_with_its_description(
    tmp_path: pathlib.Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(HuggingFaceError, match=message):
        huggingface.read_config(tmp_path)
