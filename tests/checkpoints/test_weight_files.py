from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cd4lm_jax.checkpoints import huggingface, loading
from cd4lm_jax.checkpoints.model_folder import write_model
from cd4lm_jax.checkpoints.weight_files import INDEX_FILE
from tests.checkpoints import published
from tests.tiny import TINY, parameters, tiny_model

EXPECTED = parameters(tiny_model(published.LLADA_TINY))
HEAD, EMBEDDING = "model.transformer.ff_out.weight", "model.transformer.wte.weight"


def add(folder: pathlib.Path, name: str, tensor: np.ndarray) -> None:
    """Adds a tensor to the last shard, and to no index."""
    file = sorted(folder.glob("*.safetensors"))[-1]
    save_file(load_file(file) | {name: tensor}, file)


def test_shards_need_no_index(tmp_path: pathlib.Path) -> None:
    published.write(tmp_path, "llada", shards=3)
    (tmp_path / INDEX_FILE).unlink()
    assert loading.layout(tmp_path) == "Hugging Face"
    for name, leaf in parameters(loading.load_model(tmp_path)).items():
        np.testing.assert_array_equal(leaf, EXPECTED[name], err_msg=name)


def test_a_missing_shard_is_named_without_an_index_too(tmp_path: pathlib.Path) -> None:
    published.write(tmp_path, "llada", shards=3)
    (tmp_path / INDEX_FILE).unlink()
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"00002-of-00003.safetensors is missing, .* is one of 3"):
        loading.load_model(tmp_path)


def test_a_tensor_in_two_files_is_refused(tmp_path: pathlib.Path) -> None:
    published.write(tmp_path, "llada", shards=2)
    (tmp_path / INDEX_FILE).unlink()
    add(tmp_path, EMBEDDING, np.zeros((1, 1), np.float32))
    published.write(tmp_path / "other", "llada", shards=1)
    (tmp_path / "other" / "model-00001-of-00001.safetensors").rename(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"is in model-0000\d-of-00002.safetensors and in"):
        loading.load_model(tmp_path)


def only(name: str) -> Callable[[pathlib.Path], None]:
    """Leaves `config.json` and one other file."""

    def change(folder: pathlib.Path) -> None:
        for file in folder.iterdir():
            if file.name != "config.json":
                file.unlink()
        if name:
            (folder / name).write_bytes(b"\x80\x02")

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (only(""), "no weights in .*: there is no safetensors file; fetch model.safetensors, or"),
        (
            only("pytorch_model.bin"),
            r"has weights in another format alone \(pytorch_model.bin\); fetch the safetensors",
        ),
        (only("model.gguf"), r"in another format alone \(model.gguf\)"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: pathlib.Path, change: Callable[[pathlib.Path], object], message: str
) -> None:
    """Weights that are missing are said to be missing, not a field of `config.json`."""
    published.write(tmp_path, "llada")
    change(tmp_path)
    assert loading.load_config(tmp_path) == published.LLADA_TINY
    with pytest.raises(ValueError, match=message) as raised:
        loading.load_model(tmp_path)
    assert "\n" not in str(raised.value)


def test_our_own_folder_without_parameters_is_named(tmp_path: pathlib.Path) -> None:
    write_model(tmp_path / "model", tiny_model(TINY))
    (tmp_path / "model" / "params").rename(tmp_path / "params")
    with pytest.raises(ValueError, match=r"no weights in .*: its params folder is missing"):
        loading.load_model(tmp_path / "model")


def test_stored_buffers_are_passed_over(tmp_path: pathlib.Path) -> None:
    published.write(tmp_path, "Dream")
    add(tmp_path, "model.layers.0.self_attn.rotary_emb.inv_freq", np.ones(4, np.float32))
    add(tmp_path, "model.rotary_emb.inv_freq", np.ones(4, np.float32))
    assert loading.load_model(tmp_path).config == published.DREAM_TINY


@pytest.mark.parametrize("same", [True, False])
def test_a_tied_head_may_be_stored_too(tmp_path: pathlib.Path, same: bool) -> None:
    tensors = published.write(tmp_path, "llada")
    tied = json.loads((tmp_path / "config.json").read_text()) | {"weight_tying": True}
    (tmp_path / "config.json").write_text(json.dumps(tied))
    head = tensors[EMBEDDING] if same else tensors[EMBEDDING] + 1
    add(tmp_path, HEAD, head)
    if same:
        model = huggingface.read_model(tmp_path)
        assert model.config.tie_head
        assert "head" not in parameters(model)
    else:
        with pytest.raises(ValueError, match=f"ties the head to the embedding, but {HEAD} differs"):
            huggingface.read_model(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {EMBEDDING: "../model.safetensors"}},
        {"weight_map": {EMBEDDING: 3}},
        {"weight_map": {}, "metadata": {"sha256": {"model.safetensors": "abc"}}},
        {"weight_map": {}, "metadata": 3},
        [],
    ],
)
def test_an_index_that_makes_no_sense_is_named(tmp_path: pathlib.Path, index: object) -> None:
    published.write(tmp_path, "llada")
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="is damaged or no index; fetch it again"):
        loading.load_model(tmp_path)
