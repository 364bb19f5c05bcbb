from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest

from cd4lm_jax.checkpoints import huggingface, model_folder
from cd4lm_jax.checkpoints.families import DREAM, LLADA, family_for
from cd4lm_jax.checkpoints.family import Family, HuggingFaceError
from cd4lm_jax.checkpoints.published_tensors import CHUNK_ELEMENTS, all_tensors
from cd4lm_jax.models.config import ModelConfig, dream_7b, llada_8b
from cd4lm_jax.settings.config import config_to_json
from tests.checkpoints import published
from tests.checkpoints.dream import logits
from tests.tiny import TINY, forward

# As Dream-org publishes it, without what only says how it was trained or saved.
DREAM_CONFIG: dict[str, Any] = {
    "model_type": "Dream",
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 131072,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "pad_token_id": 151643,
    "mask_token_id": 151666,
}
LLADA_CONFIG: dict[str, Any] = {
    "model_type": "llada",
    "block_type": "llama",
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "d_model": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 32,
    "mlp_hidden_size": 12288,
    "mlp_ratio": 4,
    "vocab_size": 126464,
    "embedding_size": 126464,
    "max_sequence_length": 4096,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-05,
    "weight_tying": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "eos_token_id": 126081,
    "pad_token_id": 126081,
    "mask_token_id": 126336,
}


def read(folder: pathlib.Path, data: dict[str, Any]) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(data))
    return huggingface.read_config(folder)


@pytest.mark.parametrize(
    ("data", "config", "family"),
    [(LLADA_CONFIG, llada_8b(), LLADA), (DREAM_CONFIG, dream_7b(), DREAM)],
)
def test_the_published_descriptions_are_read_and_written(
    tmp_path: pathlib.Path, data: dict[str, Any], config: ModelConfig, family: Family
) -> None:
    assert read(tmp_path, data) == config
    assert family_for(config) is family
    described = family.describe(config, "bfloat16")
    assert data.items() <= described.items()
    assert described["torch_dtype"] == "bfloat16"
    assert read(tmp_path, described) == config


def test_the_sizes_are_the_published_ones() -> None:
    assert dream_7b().num_parameters == 7_615_616_512
    for family, config, count in ((LLADA, llada_8b(), 291), (DREAM, dream_7b(), 339)):
        tensors = all_tensors(family, config)
        assert len({tensor.name for tensor in tensors}) == len(tensors) == count
        assert sum(np.prod(tensor.shape) for tensor in tensors) == config.num_parameters
        # A part that fits into memory at any size of the model, divided evenly.
        assert max(np.prod(tensor.chunk_shape) for tensor in tensors) <= CHUNK_ELEMENTS
    largest = max(all_tensors(LLADA, llada_8b()), key=lambda tensor: np.prod(tensor.shape))
    assert [rows.stop - rows.start for rows in largest.chunks()] == [15808] * 8


def test_the_generation_settings_are_the_published_ones() -> None:
    assert LLADA.generation(llada_8b()) == {
        "_from_model_config": True,
        "bos_token_id": 126080,
        "eos_token_id": 126081,
        "pad_token_id": 126081,
    }
    assert DREAM.generation(dream_7b())["bos_token_id"] == 151643
    assert "bos_token_id" not in LLADA.generation(TINY)  # which nobody knows


@pytest.mark.parametrize(
    "changes",
    [
        {"n_kv_heads": None},
        {"mlp_hidden_size": None, "mlp_ratio": 3},
        {"embedding_size": 0},
        {"include_qkv_bias": None},
    ],
)
def test_what_is_left_out_is_implied(tmp_path: pathlib.Path, changes: dict[str, Any]) -> None:
    assert read(tmp_path, LLADA_CONFIG | changes) == llada_8b()


def test_one_head_of_keys_is_implied_too(tmp_path: pathlib.Path) -> None:
    changes = {"n_kv_heads": None, "multi_query_attention": True}
    assert read(tmp_path, LLADA_CONFIG | changes).num_kv_heads == 1


def without(data: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != key}


@pytest.mark.parametrize(
    "data",
    [
        without(DREAM_CONFIG, "rope_theta")
        | {"rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}},
        DREAM_CONFIG | {"rope_parameters": None, "rope_theta": 1000000},
        DREAM_CONFIG | {"dtype": "bfloat16"},
        DREAM_CONFIG | {"eos_token_id": [151643, 151645]},
        DREAM_CONFIG | {"head_dim": 128},
        DREAM_CONFIG | {"model_type": "fastdllm_dream"},
    ],
)
def test_forms_of_later_versions_are_read(tmp_path: pathlib.Path, data: dict[str, Any]) -> None:
    """transformers 5 moves `rope_theta` and renames `torch_dtype`; dllm renames model types."""
    assert read(tmp_path, data) == dream_7b()


def test_several_end_tokens_are_all_kept(tmp_path: pathlib.Path) -> None:
    config = read(tmp_path, LLADA_CONFIG | {"eos_token_id": [7, 9, 11]})
    assert (config.eos_id, config.end_ids) == (7, (7, 9, 11))
    assert read(tmp_path, LLADA_CONFIG | {"model_type": "fastdllm_llada"}) == llada_8b()


def test_a_byte_order_mark_is_no_part_of_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(LLADA_CONFIG).encode())
    assert huggingface.read_config(tmp_path) == llada_8b()
    (tmp_path / "config.json").write_text(config_to_json(TINY), encoding="utf-8-sig")
    assert model_folder.read_config(tmp_path) == TINY
    (tmp_path / "config.json").write_bytes(b"\xff\xfe" + json.dumps(LLADA_CONFIG).encode())
    for reader in (huggingface, model_folder):
        with pytest.raises(ValueError, match=r"config.json is not .*UTF-8") as raised:
            reader.read_config(tmp_path)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": "4096"}, "d_model is '4096'; expected a whole number"),
        ({"d_model": 4096.0}, "d_model is 4096.0; expected a whole number"),
        ({"n_layers": None}, "n_layers is None; expected a whole number"),
        ({"weight_tying": 1}, "weight_tying is 1; expected true or false"),
        ({"rope_theta": True}, "rope_theta is True; expected a number"),
        ({"rope_theta": -1.0}, "rope_theta=-1.0; give a number above 0"),
        ({"rope_theta": float("inf")}, "rope_theta=inf; give a number above 0"),
        ({"rms_norm_eps": float("nan")}, "norm_eps=nan; give a number"),
        ({"n_heads": 0, "n_kv_heads": 1}, "0 heads of 4096 in a width of 4096"),
        ({"n_heads": 33, "n_kv_heads": 33}, "33 heads of 124 in a width of 4096"),
        ({"head_dim": {}, "n_heads": 31}, "31 heads of 132 in a width of 4096"),
        ({"head_dim": [128]}, r"32 heads of \[128\] in a width of 4096"),
        ({"head_dim": 64}, "32 heads of 64 in a width of 4096"),
        ({"mlp_hidden_size": None, "mlp_ratio": "4"}, "mlp_hidden_size is '4444.*; expected a who"),
        ({"mlp_hidden_size": None, "mlp_ratio": {}}, "mlp_hidden_size is missing and does not fol"),
        ({"eos_token_id": 126464}, "eos_id=126464 is outside the vocabulary of 126464 tokens"),
        ({"eos_token_id": []}, r"eos_token_id is \[\]; expected a whole number"),
        ({"eos_token_id": [3, "4"]}, "end_token_ids is .*; give a list of token ids"),
        ({"end_token_ids": 3}, "end_token_ids is 3; give a list of token ids"),
        ({"mask_token_id": -1}, "mask_token_id is -1; give the mask token's id"),
        ({"mask_token_id": -2}, "mask_id=-2 is outside the vocabulary"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters is .*; this port computes"),
        ({"rope_parameters": 3}, "rope_parameters is 3; this port computes rotary embeddings"),
        ({"model_type": ["llada"]}, r"model_type is \['llada'\]; expected one of"),
    ],
)
def test_values_that_no_architecture_has_are_named(
    tmp_path: pathlib.Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(HuggingFaceError, match=message) as raised:
        read(tmp_path, LLADA_CONFIG | changes)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"llada"', "{}", "[" * 100_000])
def test_json_that_is_no_description_is_named(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        HuggingFaceError, match=r"is no JSON object|has no 'model_type'|is not JSON"
    ):
        huggingface.read_config(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DREAM_CONFIG | {"model_type": "gpt2"}, r"is 'gpt2'; expected one of 'llada' \(LLaDA-8B"),
        (DREAM_CONFIG | {"use_sliding_window": True}, "use_sliding_window is True; this port"),
        (DREAM_CONFIG | {"rope_scaling": {"type": "yarn"}}, "Dream-7B's own architecture"),
    ],
)
def test_other_variants_are_refused(
    tmp_path: pathlib.Path, data: dict[str, Any], message: str
) -> None:
    with pytest.raises(HuggingFaceError, match=message):
        read(tmp_path, data)


@pytest.mark.parametrize(
    "changes",
    [
        {"alignment": "shifted", "attention": "causal", "qkv_bias": True, "qk_norm": True},
        {"rotary_dim": 4},
        {"mask_id": -1},
    ],
)
def test_what_no_family_computes_has_none(changes: dict[str, Any]) -> None:
    with pytest.raises(HuggingFaceError, match="so it cannot be exported"):
        family_for(dataclasses.replace(TINY, **changes))


def test_dream_computes_what_its_own_code_does(tmp_path: pathlib.Path) -> None:
    """Grouped heads, biases, shifted logits, from the folder to the numbers."""
    tensors = published.write(tmp_path, "Dream", shards=3)
    config = published.DREAM_TINY
    model = huggingface.read_model(tmp_path)
    assert model.config == config
    assert (config.num_heads, config.num_kv_heads) == (4, 2)
    row = np.random.default_rng(1).integers(0, config.vocab_size, 11).astype(np.int32)
    found = forward(model, row[None], np.ones((1, 11), bool))[0]
    data = json.loads((tmp_path / "config.json").read_text())
    np.testing.assert_allclose(found, logits(data, tensors, row), atol=2e-5)
