"""The families of published checkpoints that this port computes, and how they are recognised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cd4lm_jax.checkpoints.family import Family, HuggingFaceError
from cd4lm_jax.models.config import ModelConfig

LLADA = Family(
    title="LLaDA-8B",
    model_types=("llada", "fastdllm_llada"),
    tensors={
        "embedding": ("model.transformer.wte.weight", False),
        "blocks.attention_norm": ("model.transformer.blocks.{}.attn_norm.weight", False),
        "blocks.query": ("model.transformer.blocks.{}.q_proj.weight", True),
        "blocks.key": ("model.transformer.blocks.{}.k_proj.weight", True),
        "blocks.value": ("model.transformer.blocks.{}.v_proj.weight", True),
        "blocks.query_bias": ("model.transformer.blocks.{}.q_proj.bias", False),
        "blocks.key_bias": ("model.transformer.blocks.{}.k_proj.bias", False),
        "blocks.value_bias": ("model.transformer.blocks.{}.v_proj.bias", False),
        "blocks.attention_out": ("model.transformer.blocks.{}.attn_out.weight", True),
        "blocks.mlp_norm": ("model.transformer.blocks.{}.ff_norm.weight", False),
        "blocks.gate": ("model.transformer.blocks.{}.ff_proj.weight", True),
        "blocks.up": ("model.transformer.blocks.{}.up_proj.weight", True),
        "blocks.down": ("model.transformer.blocks.{}.ff_out.weight", True),
        "norm": ("model.transformer.ln_f.weight", False),
        "head": ("model.transformer.ff_out.weight", True),
    },
    fields={
        "vocab_size": "embedding_size",
        "embed_dim": "d_model",
        "num_layers": "n_layers",
        "num_heads": "n_heads",
        "num_kv_heads": "n_kv_heads",
        "mlp_dim": "mlp_hidden_size",
        "max_length": "max_sequence_length",
        "rope_theta": "rope_theta",
        "norm_eps": "rms_norm_eps",
        "qkv_bias": "include_qkv_bias",
        "tie_head": "weight_tying",
        "mask_id": "mask_token_id",
        "eos_id": "eos_token_id",
    },
    fixed={"alignment": "same"},
    implied={
        "embedding_size": lambda data: data["vocab_size"],
        "n_kv_heads": lambda data: 1 if data.get("multi_query_attention") else data["n_heads"],
        "mlp_hidden_size": lambda data: data["mlp_ratio"] * data["d_model"],
        "include_qkv_bias": lambda data: False,
    },
    repeated={"vocab_size": "embedding_size", "pad_token_id": "eos_token_id"},
    expected={
        "block_type": "llama",
        "activation_type": "silu",
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "rope": True,
        "rope_full_precision": True,
        "alibi": False,
        "attention_layer_norm": False,
        "input_emb_norm": False,
        "scale_logits": False,
        "include_bias": False,
    },
    constant={
        "architectures": ["LLaDAModelLM"],
        "auto_map": {
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
            "AutoModel": "modeling_llada.LLaDAModelLM",
        },
        "alibi_bias_max": 8.0,
        "attention_dropout": 0.0,
        "attention_layer_norm_with_affine": True,
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "embedding_dropout": 0.0,
        "flash_attention": False,
        "init_cutoff_factor": None,
        "init_device": "cpu",
        "init_fn": "mitchell",
        "init_std": 0.02,
        "mlp_ratio": 4,
        "multi_query_attention": None,
        "precision": None,
        "residual_dropout": 0.0,
        "use_cache": False,
    },
    bos_id=126_080,
    eos_id=126_081,
    eot_id=126_348,
)

DREAM = Family(
    title="Dream-7B",
    model_types=("Dream", "fastdllm_dream"),
    tensors={
        "embedding": ("model.embed_tokens.weight", False),
        "blocks.attention_norm": ("model.layers.{}.input_layernorm.weight", False),
        "blocks.query": ("model.layers.{}.self_attn.q_proj.weight", True),
        "blocks.key": ("model.layers.{}.self_attn.k_proj.weight", True),
        "blocks.value": ("model.layers.{}.self_attn.v_proj.weight", True),
        "blocks.query_bias": ("model.layers.{}.self_attn.q_proj.bias", False),
        "blocks.key_bias": ("model.layers.{}.self_attn.k_proj.bias", False),
        "blocks.value_bias": ("model.layers.{}.self_attn.v_proj.bias", False),
        "blocks.attention_out": ("model.layers.{}.self_attn.o_proj.weight", True),
        "blocks.mlp_norm": ("model.layers.{}.post_attention_layernorm.weight", False),
        "blocks.gate": ("model.layers.{}.mlp.gate_proj.weight", True),
        "blocks.up": ("model.layers.{}.mlp.up_proj.weight", True),
        "blocks.down": ("model.layers.{}.mlp.down_proj.weight", True),
        "norm": ("model.norm.weight", False),
        "head": ("lm_head.weight", True),
    },
    fields={
        "vocab_size": "vocab_size",
        "embed_dim": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "num_kv_heads": "num_key_value_heads",
        "mlp_dim": "intermediate_size",
        "max_length": "max_position_embeddings",
        "rope_theta": "rope_theta",
        "norm_eps": "rms_norm_eps",
        "tie_head": "tie_word_embeddings",
        "mask_id": "mask_token_id",
        "eos_id": "eos_token_id",
    },
    fixed={"alignment": "shifted", "qkv_bias": True},
    implied={
        "num_key_value_heads": lambda data: data["num_attention_heads"],
        "tie_word_embeddings": lambda data: False,
    },
    repeated={
        "bos_token_id": "eos_token_id",
        "pad_token_id": "eos_token_id",
        "max_window_layers": "num_hidden_layers",
    },
    expected={
        "hidden_act": "silu",
        "rope_scaling": None,
        "use_mrope": False,
        "use_sliding_window": False,
    },
    constant={
        "architectures": ["DreamModel"],
        "auto_map": {
            "AutoConfig": "configuration_dream.DreamConfig",
            "AutoModel": "modeling_dream.DreamModel",
        },
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "sliding_window": None,
        "use_cache": False,
    },
    bos_id=151_643,
    eos_id=151_643,
    eot_id=151_645,
    confidence="sampled",
)

FAMILIES = (LLADA, DREAM)
_SUPPORTED = ", ".join(f"{family.model_types[0]!r} ({family.title})" for family in FAMILIES)
_EXPERTS = ("num_experts", "n_routed_experts", "moe_", "expert_")


def family_of(data: Mapping[str, Any], where: str) -> Family:
    """The family that a `config.json` names.

    Raises:
        HuggingFaceError: none of ours.
        KeyError: it names none.
    """
    kind = data["model_type"]
    family = next((family for family in FAMILIES if kind in family.model_types), None)
    # LLaDA-MoE shares its model_type with LLaDA-8B.
    experts = [key for key in data if key.startswith(_EXPERTS)]
    if family is LLADA and (experts or ("hidden_size" in data and "d_model" not in data)):
        sign = experts[0] if experts else "hidden_size"
        raise HuggingFaceError(
            f"{where}: model_type {kind!r} with {sign!r} is LLaDA-MoE, a mixture of experts, which "
            f"this port does not compute; give a checkpoint of {_SUPPORTED}"
        )
    if kind == "Fast_dLLM_Qwen":
        raise HuggingFaceError(
            f"{where}: model_type {kind!r} is Fast-dLLM v2, Qwen2.5 with block-causal attention, "
            f"which this port does not compute; give a checkpoint of {_SUPPORTED}"
        )
    if family is None:
        raise HuggingFaceError(f"{where}: model_type is {kind!r}; expected one of {_SUPPORTED}")
    return family


def family_for(config: ModelConfig) -> Family:
    """The family whose published code computes this architecture.

    Raises:
        HuggingFaceError: there is none.
    """
    for family in FAMILIES:
        if family.computes(config):
            return family
    raise HuggingFaceError(
        "published code computes heads of embed_dim / num_heads, and alignment 'same' (LLaDA) or "
        f"'shifted' with qkv_bias (Dream); this model has alignment {config.alignment!r}, qkv_bias "
        f"{config.qkv_bias} and {config.num_heads} heads of {config.head_dim} in a width of "
        f"{config.embed_dim}, so it cannot be exported"
    )
