"""A diffusion model made of an autoregressive checkpoint."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest

from cd4lm_jax.checkpoints import loading, published_tensors
from cd4lm_jax.checkpoints.conversion import ConversionError, convert
from cd4lm_jax.checkpoints.diffusion import Diffusion
from cd4lm_jax.models.config import NO_MASK
from cd4lm_jax.models.transformer import Transformer
from tests.checkpoints import published
from tests.tiny import forward, parameters

BLOCKS = Diffusion(block_length=4, alignment="same")


@pytest.fixture
def qwen3(golden: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the published folder, which has no tokenizer."""
    return shutil.copytree(golden / "families" / "qwen3", tmp_path / "qwen3")


def logits(model: Transformer, golden: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Those of the old vocabulary, and what transformers computes for blocks of 4."""
    with np.load(golden / "families" / "families.npz") as recorded:
        tokens, expected = recorded["qwen3/tokens"], recorded["qwen3/logits_block4"]
    found = forward(model, tokens.astype(np.int32), np.ones(tokens.shape, bool))
    return np.asarray(found)[..., : expected.shape[-1]], expected


def test_the_vocabulary_grows_by_the_mean(
    golden: pathlib.Path, qwen3: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published_tensors, "CHUNK_ELEMENTS", 3000)  # chunks across the old end
    config = convert(qwen3, qwen3.with_name("new"), diffusion=BLOCKS)
    assert (config.vocab_size, config.mask_id) == (256, 211)
    assert (config.attention, config.block_length, config.blocks) == ("block", 4, "sequence")
    model = loading.load_model(qwen3.with_name("new"))
    found, expected = logits(model, golden)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    table = parameters(model)["embedding"]
    np.testing.assert_array_equal(table[:211], published.read(qwen3)["model.embed_tokens.weight"])
    mean = table[:211].mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(table[211:], np.tile(mean, (45, 1)), rtol=1e-6)


def test_a_row_in_reserve_is_taken_and_the_tokenizer_learns_it(qwen3: pathlib.Path) -> None:
    vocabulary = {f"t{number}": number for number in range(200)}
    added = [{"id": 200, "content": "<|im_end|>", "special": True}]
    definition = {"model": {"vocab": vocabulary}, "added_tokens": added}
    (qwen3 / "tokenizer.json").write_text(json.dumps(definition))
    (qwen3 / "tokenizer_config.json").write_text('{"added_tokens_decoder": {}, "eos_token": "t2"}')
    target = qwen3.with_name("new")
    config = convert(qwen3, target, diffusion=Diffusion(attention="full", block_length=0))
    assert (config.vocab_size, config.mask_id, config.attention) == (211, 201, "full")
    assert config.alignment == "shifted"
    after = json.loads((target / "tokenizer.json").read_text())["added_tokens"]
    assert [(token["id"], token["content"]) for token in after] == [
        (200, "<|im_end|>"),
        (201, "<|mask|>"),
    ]
    settings = json.loads((target / "tokenizer_config.json").read_text())
    assert (settings["mask_token"], settings["eos_token"]) == ("<|mask|>", "t2")
    assert settings["added_tokens_decoder"]["201"]["content"] == "<|mask|>"
    table = parameters(loading.load_model(target))["embedding"]
    before = published.read(qwen3)["model.embed_tokens.weight"]
    np.testing.assert_allclose(table[201], before[:201].mean(axis=0), atol=1e-7)
    others = np.delete(np.arange(211), 201)
    np.testing.assert_array_equal(table[others], before[others])


def test_a_tokenizer_in_parts_learns_it_too(qwen3: pathlib.Path) -> None:
    (qwen3 / "vocab.json").write_text('{"a": 0, "b": 1, "c": 2}')
    (qwen3 / "tokenizer_config.json").write_text("{}")
    assert convert(qwen3, qwen3.with_name("new"), diffusion=BLOCKS).mask_id == 3
    assert json.loads((qwen3.with_name("new") / "added_tokens.json").read_text()) == {"<|mask|>": 3}


def test_a_mask_that_is_there_stays(golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = convert(golden / "families" / "sdar", tmp_path / "new", diffusion=BLOCKS)
    assert (config.mask_id, config.vocab_size) == (210, 211)


def test_the_new_model_is_exported_as_dllm_names_it(
    golden: pathlib.Path, qwen3: pathlib.Path
) -> None:
    own, theirs = qwen3.with_name("own"), qwen3.with_name("theirs")
    convert(qwen3, own, diffusion=Diffusion(block_length=4, alignment="shifted"))
    config = convert(own, theirs)
    assert loading.load_config(theirs) == config
    assert json.loads((theirs / "config.json").read_text())["model_type"] == "a2d-qwen3"
    found, expected = logits(loading.load_model(theirs), golden)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found[:, 1:], expected[:, :-1], atol=1e-5 * scale)


def test_without_it_a_conversion_leaves_the_model_as_it_is(qwen3: pathlib.Path) -> None:
    config = convert(qwen3, qwen3.with_name("own"))
    assert (config.mask_id, config.attention, config.vocab_size) == (NO_MASK, "causal", 211)
    with pytest.raises(ConversionError, match="is a folder of this project; a diffusion model is"):
        convert(qwen3.with_name("own"), qwen3.with_name("new"), diffusion=BLOCKS)
