"""LLaDA2 against its published code, and LLaDA-MoE's description."""

from __future__ import annotations

import copy
import dataclasses
import json
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cd4lm_jax.checkpoints import huggingface, loading, published_tensors
from cd4lm_jax.checkpoints.conversion import convert
from cd4lm_jax.checkpoints.families import family_for
from cd4lm_jax.checkpoints.family import HuggingFaceError
from cd4lm_jax.models.config import ModelConfig, llada2_mini
from cd4lm_jax.models.experts import ExpertsConfig
from tests.checkpoints import published
from tests.tiny import forward

LLADA2_MINI: dict[str, Any] = {
    "model_type": "llada2_moe",
    "vocab_size": 157184,
    "hidden_size": 2048,
    "num_hidden_layers": 20,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 5120,
    "moe_intermediate_size": 512,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "max_position_embeddings": 32768,
    "partial_rotary_factor": 0.5,
    "rope_theta": 600000,
    "rms_norm_eps": 1e-06,
    "eos_token_id": 156892,
    "mask_token_id": 156895,
    "tie_word_embeddings": False,
}
LLADA_MOE: dict[str, Any] = {
    "model_type": "llada",
    "vocab_size": 157184,
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "dense_intermediate_size": 8192,
    "expert_intermediate_size": 1024,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "max_position_embeddings": 8192,
    "partial_rotary_factor": 1,
    "qk_layernorm": True,
    "rope_theta": 50000,
    "rms_norm_eps": 1e-05,
    "eos_token_id": 156892,
}


def read(folder: pathlib.Path, data: dict[str, Any]) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(data))
    return huggingface.read_config(folder)


def test_llada2_computes_the_logits_of_its_own_code(
    golden: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the published folder, and from what is left of it after conversion there and back."""
    source, own, back = golden / "families" / "llada2_moe", tmp_path / "own", tmp_path / "back"
    monkeypatch.setattr(published_tensors, "CHUNK_ELEMENTS", 2000)  # chunks within shared tensors
    convert(source, own)
    convert(own, back, shard_bytes=50_000)
    published.assert_same(published.read(back), published.read(source))
    with np.load(golden / "families" / "families.npz") as recorded:
        tokens = recorded["llada2_moe/tokens"].astype(np.int32)
        expected = {kind: recorded[f"llada2_moe/logits_{kind}"] for kind in ("full", "block8")}
    ties = json.loads((golden / "families" / "families.json").read_text())["near_tie"]
    for kind, changes in (("full", {"attention": "full"}), ("block8", {"block_length": 8})):
        model = copy.copy(loading.load_model(back))
        model.config = dataclasses.replace(model.config, **changes)
        found = np.array(forward(model, tokens, np.ones(tokens.shape, bool)))
        for row, position in ties.get(f"llada2_moe/logits_{kind}", []):
            found[row, position] = expected[kind][row, position]
        scale = np.abs(expected[kind]).max()
        np.testing.assert_allclose(found, expected[kind], atol=1e-5 * scale)


def test_the_descriptions_are_read_and_written(tmp_path: pathlib.Path) -> None:
    config = read(tmp_path, LLADA2_MINI)
    assert config == llada2_mini()
    assert config.num_parameters == 16_255_643_392
    assert (config.attention, config.block_length, config.rotary_dim) == ("block", 32, 64)
    assert config.experts is not None
    assert (config.experts.dense_layers, config.experts.groups_per_token) == (1, 4)
    described = family_for(config).describe(config, "bfloat16")
    assert LLADA2_MINI.items() <= described.items()
    assert read(tmp_path, described) == config


def test_llada_moe_is_recognised_by_its_fields(tmp_path: pathlib.Path) -> None:
    config = read(tmp_path, LLADA_MOE)
    assert config.experts == ExpertsConfig(
        count=64, per_token=8, width=1024, score="softmax", normalised=False
    )
    assert (config.attention, config.mask_id, config.rotary_dim) == ("full", 156895, 0)
    assert 7.3e9 < config.num_parameters < 7.5e9
    described = family_for(config).describe(config, "float32")
    assert LLADA_MOE.items() <= described.items()
    assert read(tmp_path, described) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_group": 7}, "experts.groups=7 does not divide count=256"),
        ({"topk_group": 0}, "experts.groups_per_token=0 of groups=8 leaves 0"),
        ({"num_experts_per_tok": 300}, "per_token=300 of count=256"),
        ({"first_k_dense_replace": 20}, "experts.dense_layers=20 of num_layers=20"),
        ({"num_experts": None}, "num_experts is None; expected a whole number"),
        ({"use_qkv_bias": True}, "use_qkv_bias is True; this port computes LLaDA2's own"),
    ],
)
def test_what_no_model_of_experts_has_is_named(
    tmp_path: pathlib.Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(HuggingFaceError, match=message) as raised:
        read(tmp_path, LLADA2_MINI | changes)
    assert str(raised.value).count(str(tmp_path)) == 1


@pytest.mark.slow
def test_all_families_compute_the_same_on_a_mesh(
    golden: pathlib.Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_python("-c", _ON_A_MESH, str(golden / "families"), devices=8)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["llama", "qwen3", "llada2_moe"] * 2


_ON_A_MESH = """
import dataclasses, sys
import jax, numpy as np
from cd4lm_jax.checkpoints import huggingface
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
from cd4lm_jax.runtime.sharding import spec
recorded = np.load(sys.argv[1] + "/families.npz")
for sizes in (MeshConfig(data=8), MeshConfig(data=2, fsdp=2, tensor=2)):
    mesh = make_mesh(sizes)
    rows = jax.sharding.NamedSharding(mesh, spec(("batch",)))
    for kind, size in (("llama", 4), ("qwen3", 4), ("llada2_moe", 8)):
        model = huggingface.read_model(f"{sys.argv[1]}/{kind}", mesh=mesh)
        model.config = dataclasses.replace(
            model.config, alignment="same", attention="block", block_length=size, blocks="sequence"
        )
        tokens = np.tile(recorded[f"{kind}/tokens"], (4, 1)).astype(np.int32)
        tokens, valid = jax.device_put((tokens, np.ones(tokens.shape, bool)), rows)
        found = jax.jit(Transformer.__call__)(model, tokens, valid)
        expected = np.tile(recorded[f"{kind}/logits_block{size}"], (4, 1, 1))
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max(), kind
        print(kind)
"""
