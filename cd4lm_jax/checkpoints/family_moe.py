"""LLaDA2 (2.0, 2.1) and LLaDA-MoE: models with experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cd4lm_jax.checkpoints.family import MASK_KEY
from cd4lm_jax.checkpoints.family_llama import QWEN3

_LAYER = "model.layers.{}"
_EXPERTS = {
    "blocks.router": (f"{_LAYER}.mlp.gate.weight", True),
    "blocks.router_bias": (f"{_LAYER}.mlp.gate.expert_bias", False),
    "blocks.expert_gate": (f"{_LAYER}.mlp.experts.{{}}.gate_proj.weight", True),
    "blocks.expert_up": (f"{_LAYER}.mlp.experts.{{}}.up_proj.weight", True),
    "blocks.expert_down": (f"{_LAYER}.mlp.experts.{{}}.down_proj.weight", True),
    "blocks.shared_gate": (f"{_LAYER}.mlp.shared_experts.gate_proj.weight", True),
    "blocks.shared_up": (f"{_LAYER}.mlp.shared_experts.up_proj.weight", True),
    "blocks.shared_down": (f"{_LAYER}.mlp.shared_experts.down_proj.weight", True),
}
_FUSED = (f"{_LAYER}.attention.query_key_value.weight", True)
_FIELDS = {**QWEN3.fields, "rotary_dim": "rotary_dim"}


def _rotary_dim(data: Mapping[str, Any]) -> int:
    """Dimensions that are rotated; 0 for the whole head."""
    head_dim = data.get("head_dim") or data["hidden_size"] // data["num_attention_heads"]
    share = data.get("partial_rotary_factor", 1.0)
    return 0 if share == 1 else int(head_dim * share)


_SHARE = {
    "partial_rotary_factor": lambda config: (config.rotary_dim or config.head_dim) / config.head_dim
}
_EXPECTED = {"hidden_act": "silu", "rope_scaling": None, "use_sliding_window": False}

LLADA2 = dataclasses.replace(
    QWEN3,
    title="LLaDA2",
    model_types=("llada2_moe",),
    tensors={
        **QWEN3.tensors,
        "embedding": ("model.word_embeddings.weight", False),
        "blocks.query": _FUSED,
        "blocks.key": _FUSED,
        "blocks.value": _FUSED,
        "blocks.attention_out": (f"{_LAYER}.attention.dense.weight", True),
        "blocks.query_norm": (f"{_LAYER}.attention.query_layernorm.weight", False),
        "blocks.key_norm": (f"{_LAYER}.attention.key_layernorm.weight", False),
        **_EXPERTS,
    },
    fields={**_FIELDS, "block_length": "block_size"},
    expert_fields={
        "count": "num_experts",
        "per_token": "num_experts_per_tok",
        "width": "moe_intermediate_size",
        "shared": "num_shared_experts",
        "dense_layers": "first_k_dense_replace",
        "groups": "n_group",
        "groups_per_token": "topk_group",
        "scale": "routed_scaling_factor",
    },
    expert_fixed={"score": "sigmoid", "biased": True, "normalised": True},
    fixed={
        "alignment": "same",
        "attention": "block",
        "blocks": "sequence",
        "qkv_bias": False,
        "qk_norm": True,
    },
    implied={
        "num_key_value_heads": lambda data: data["num_attention_heads"],
        "tie_word_embeddings": lambda data: False,
        "rotary_dim": _rotary_dim,
        "block_size": lambda data: 32,
        "num_shared_experts": lambda data: 0,
        "first_k_dense_replace": lambda data: 0,
        MASK_KEY: lambda data: 156_895,
    },
    expected={
        **_EXPECTED,
        "use_bias": False,
        "use_qkv_bias": False,
        "use_qk_norm": True,
        "norm_head": False,
        "score_function": "sigmoid",
        "norm_topk_prob": True,
        "moe_router_enable_expert_bias": True,
    },
    constant={
        "architectures": ["LLaDA2MoeModelLM"],
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_llada2_moe.LLaDA2MoeConfig",
            "AutoModel": "modeling_llada2_moe.LLaDA2MoeModel",
            "AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM",
        },
        "embedding_dropout": 0.0,
        "initializer_range": 0.02,
        "output_dropout": 0.0,
        "output_router_logits": False,
        "use_cache": False,
    },
    written=_SHARE,
    bos_id=156_891,
    eos_id=156_892,
    eot_id=156_892,
)

LLADA_MOE = dataclasses.replace(
    LLADA2,
    title="LLaDA-MoE",
    model_types=("llada", "llada_moe", "lladamoe"),
    tensors={**QWEN3.tensors, **_EXPERTS},
    fields={**_FIELDS, "mlp_dim": "dense_intermediate_size"},
    expert_fields={
        "count": "num_experts",
        "per_token": "num_experts_per_tok",
        "width": "expert_intermediate_size",
        "normalised": "norm_topk_prob",
    },
    expert_fixed={"score": "softmax", "biased": False},
    fixed={"alignment": "same", "qkv_bias": False, "qk_norm": True},
    implied={
        "num_key_value_heads": lambda data: data["num_attention_heads"],
        "tie_word_embeddings": lambda data: False,
        "rotary_dim": _rotary_dim,
        "dense_intermediate_size": lambda data: data["expert_intermediate_size"],
        "norm_topk_prob": lambda data: False,
        MASK_KEY: lambda data: 156_895,
    },
    expected={
        **_EXPECTED,
        "attention_bias": False,
        "clip_qkv": None,
        "moe_router_enable_expert_bias": False,
        "moe_router_score_function": "softmax",
        "qk_layernorm": True,
        "routed_scaling_factor": 1.0,
        "router_num_group": None,
        "router_topk_group": None,
        "shared_expert_intermediate_size": None,
    },
    constant={
        "architectures": ["LLaDAMoEModelLM"],
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_lladamoe.LLaDAConfig",
            "AutoModel": "modeling_lladamoe.LLaDAMoEModel",
            "AutoModelForCausalLM": "modeling_lladamoe.LLaDAMoEModelLM",
        },
        "initializer_range": 0.02,
        "output_router_logits": False,
        "use_cache": False,
    },
)
