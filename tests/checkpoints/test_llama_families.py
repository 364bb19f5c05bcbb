"""Llama, Qwen2, Qwen3 and what grew out of them, against what transformers computed."""

from __future__ import annotations

import copy
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest

from cd4lm_jax.checkpoints import huggingface, loading
from cd4lm_jax.checkpoints.conversion import convert
from cd4lm_jax.checkpoints.families import family_for
from cd4lm_jax.checkpoints.family import HuggingFaceError
from cd4lm_jax.models.config import NO_MASK, ModelConfig
from cd4lm_jax.models.transformer import Transformer
from tests.checkpoints import published
from tests.tiny import TINY, forward

PATTERNS: dict[str, dict[str, Any]] = {
    "causal": {},
    "full": {"attention": "full"},
    "block4": {"attention": "block", "block_length": 4, "blocks": "sequence"},
}
QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "eos_token_id": 151643,
}


def attending(model: Transformer, **changes: Any) -> Transformer:
    """The same parameters in another architecture."""
    other = copy.copy(model)
    other.config = dataclasses.replace(model.config, **changes)
    return other


def read(folder: pathlib.Path, data: dict[str, Any]) -> ModelConfig:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(data))
    return huggingface.read_config(folder)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_computes_the_logits_of_transformers(
    golden: pathlib.Path, tmp_path: pathlib.Path, kind: str
) -> None:
    """From the published folder, and from what is left of it after conversion there and back."""
    source, own, back = golden / "families" / kind, tmp_path / "own", tmp_path / "back"
    convert(source, own)
    convert(own, back, shard_bytes=100_000)
    published.assert_same(published.read(back), published.read(source))
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, back))
    assert after["model_type"] == kind
    assert "mask_token_id" not in after
    with np.load(golden / "families" / "families.npz") as recorded:
        expected = {name: recorded[f"{kind}/logits_{name}"] for name in PATTERNS}
        tokens = recorded[f"{kind}/tokens"].astype(np.int32)
    assert {key for key in before if key in after and before[key] != after[key]} <= {
        "bos_token_id",
        "max_window_layers",
        "pad_token_id",
        "use_cache",
    }
    model = huggingface.read_model(source)
    assert (model.config.attention, model.config.mask_id) == ("causal", NO_MASK)
    valid = np.ones(tokens.shape, bool)
    for name, changes in PATTERNS.items():
        found = forward(attending(model, alignment="same", **changes), tokens, valid)
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(found, expected[name], atol=1e-5 * scale)
    # As loaded, entry i is about token i.
    moved = forward(loading.load_model(back), tokens, valid)
    np.testing.assert_allclose(moved[:, 1:], expected["causal"][:, :-1], atol=1e-5 * scale)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_continues_greedily_as_transformers_does(golden: pathlib.Path, kind: str) -> None:
    with np.load(golden / "families" / "families.npz") as recorded:
        (expected,) = recorded[f"{kind}/greedy"]
    model = attending(huggingface.read_model(golden / "families" / kind), alignment="same")
    tokens = np.zeros((1, len(expected)), np.int32)
    tokens[0, :9] = expected[:9]
    valid = np.ones(tokens.shape, bool)  # what follows is not attended
    for position in range(9, len(expected)):
        tokens[0, position] = forward(model, tokens, valid)[0, position - 1].argmax()
    np.testing.assert_array_equal(tokens[0], expected)


def test_qwen3_is_described_as_published(tmp_path: pathlib.Path) -> None:
    config = read(tmp_path, QWEN3)
    assert config.num_parameters == 1_720_574_976
    assert config.qk_norm
    assert (config.attention, config.alignment, config.mask_id) == ("causal", "shifted", NO_MASK)
    assert config.end_ids == (151643, 151645)
    described = family_for(config).describe(config, "bfloat16")
    assert QWEN3.items() <= described.items()
    # transformers 5
    later = {key: value for key, value in QWEN3.items() if key != "rope_theta"}
    later |= {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "dtype": "bfloat16",
        "layer_types": ["full_attention"] * 28,
    }
    assert read(tmp_path, later) == config
    assert read(tmp_path, {**QWEN3, "head_dim": None}) == config  # transformers' default is 128


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        (
            {"model_type": "sdar", "block_size": 4, "mask_token_id": 151669},
            {"attention": "block", "alignment": "same", "block_length": 4, "blocks": "sequence"},
        ),
        ({"model_type": "sdar"}, {"block_length": 4, "mask_id": 151669}),
        ({"model_type": "sdar", "block_size": 16}, {"block_length": 16, "mask_id": 151669}),
        (
            {"model_type": "Fast_dLLM_Qwen", "bd_size": 32, "head_dim": None},
            {"attention": "block", "alignment": "shifted", "block_length": 32, "mask_id": 151665}
            | {"qkv_bias": True, "qk_norm": False},
        ),
        (
            {"model_type": "a2d-qwen3", "mask_token_id": 151669},
            {"attention": "full", "alignment": "same", "qk_norm": True, "mask_id": 151669},
        ),
        (
            {"model_type": "a2d-qwen2", "mask_token_id": 0, "head_dim": None},
            {"attention": "full", "qkv_bias": True, "mask_id": 0, "head_dim": 128},
        ),
        (
            {"model_type": "a2d-llama", "mask_token_id": 5, "attention_pattern": "block"}
            | {"block_size": 8, "blocks_from": "sequence", "logits_alignment": "shifted"},
            {"attention": "block", "block_length": 8, "blocks": "sequence", "alignment": "shifted"},
        ),
    ],
)
def test_diffusion_models_that_grew_out_of_them(
    tmp_path: pathlib.Path, changes: dict[str, Any], fields: dict[str, Any]
) -> None:
    config = read(tmp_path, QWEN3 | changes)
    assert {name: getattr(config, name) for name in fields} == fields
    family = family_for(config)
    if family.title != "LLaDA-8B":  # an a2d-llama of full attention is one
        assert changes["model_type"] in family.model_types
    assert read(tmp_path, family.describe(config, "float32")) == config


def test_the_mask_token_may_be_the_tokenizers_secret(tmp_path: pathlib.Path) -> None:
    data = QWEN3 | {"model_type": "a2d-qwen3"}
    assert read(tmp_path, data).mask_id == NO_MASK
    (tmp_path / "tokenizer_config.json").write_text('{"mask_token": "<|mask|>"}')
    assert read(tmp_path, data).mask_id == NO_MASK
    (tmp_path / "tokenizer.json").write_text(
        '{"added_tokens": [{"id": 7, "content": "<|end|>"}, {"id": 151669, "content": "<|mask|>"}]}'
    )
    assert read(tmp_path, data).mask_id == 151669
    assert read(tmp_path, data | {"mask_token_id": 3}).mask_id == 3
    listed = {"mask_token": {"content": "[M]"}, "added_tokens_decoder": {"9": {"content": "[M]"}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(listed))
    assert read(tmp_path, data).mask_id == 9


def test_illada_is_llada_with_another_mask(tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(TINY, mask_id=5)
    described = family_for(config).describe(config, "float32")
    assert (described["model_type"], described["mask_token_id"]) == ("llada", 5)
    assert read(tmp_path, described) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "attention_bias is True; this port computes Qwen3's own"),
        ({"layer_types": ["sliding_attention"]}, "layer_types is .*; this port computes layers of"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling is"),
        ({"model_type": "a2d-qwen3", "attention_pattern": "odd"}, "'odd'; expected one of full, "),
        (
            {"model_type": "a2d-qwen3", "attention_pattern": "block"},
            "block_length=0 with attention",
        ),
    ],
)
def test_other_variants_are_refused(
    tmp_path: pathlib.Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(HuggingFaceError, match=message) as raised:
        read(tmp_path, QWEN3 | changes)
    assert "\n" not in str(raised.value)
