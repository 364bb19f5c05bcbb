"""Llama, Qwen2 and Qwen3, and the diffusion models that grew out of them.

All name their tensors alike. An autoregressive checkpoint is `causal` and `shifted`: its output at
i predicts token i + 1, so `Transformer.__call__`, whose entry i is about token i, gives the
published logits moved by one. `dataclasses.replace(config, alignment="same")` gives them unmoved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from cd4lm_jax.checkpoints.family import MASK_KEY, OWN_KEYS, Family
from cd4lm_jax.models.config import NO_MASK


def _given(data: Mapping[str, Any], key: str, otherwise: Any) -> Any:
    """A value that may be 0."""
    return otherwise if data.get(key) is None else data[key]


_LAYER = "model.layers.{}"
_TENSORS = {
    "embedding": ("model.embed_tokens.weight", False),
    "blocks.attention_norm": (f"{_LAYER}.input_layernorm.weight", False),
    "blocks.query": (f"{_LAYER}.self_attn.q_proj.weight", True),
    "blocks.key": (f"{_LAYER}.self_attn.k_proj.weight", True),
    "blocks.value": (f"{_LAYER}.self_attn.v_proj.weight", True),
    "blocks.attention_out": (f"{_LAYER}.self_attn.o_proj.weight", True),
    "blocks.mlp_norm": (f"{_LAYER}.post_attention_layernorm.weight", False),
    "blocks.gate": (f"{_LAYER}.mlp.gate_proj.weight", True),
    "blocks.up": (f"{_LAYER}.mlp.up_proj.weight", True),
    "blocks.down": (f"{_LAYER}.mlp.down_proj.weight", True),
    "norm": ("model.norm.weight", False),
    "head": ("lm_head.weight", True),
}
_BIASES = {
    f"blocks.{ours}_bias": (f"{_LAYER}.self_attn.{theirs}_proj.bias", False)
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"))
}
_HEAD_NORMS = {
    "blocks.query_norm": (f"{_LAYER}.self_attn.q_norm.weight", False),
    "blocks.key_norm": (f"{_LAYER}.self_attn.k_norm.weight", False),
}
_FIELDS = {
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
}
_IMPLIED: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "num_key_value_heads": lambda data: data["num_attention_heads"],
    "tie_word_embeddings": lambda data: False,
}
_NO_MASK_IMPLIED = {**_IMPLIED, MASK_KEY: lambda data: _given(data, MASK_KEY, NO_MASK)}
_EXPECTED = {"hidden_act": "silu", "rope_scaling": None}
_QWEN_EXPECTED = {**_EXPECTED, "use_sliding_window": False}
_CONSTANT = {"attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": False}
_AUTOREGRESSIVE = {"alignment": "shifted", "attention": "causal"}
_PLAIN = {"qkv_bias": False, "qk_norm": False}

DREAM = Family(
    title="Dream-7B",
    model_types=("Dream", "fastdllm_dream"),
    tensors=_TENSORS | _BIASES,
    fields=_FIELDS,
    fixed={"alignment": "shifted", "qkv_bias": True},
    implied=_IMPLIED,
    repeated={
        "bos_token_id": "eos_token_id",
        "pad_token_id": "eos_token_id",
        "max_window_layers": "num_hidden_layers",
    },
    expected=_QWEN_EXPECTED | {"use_mrope": False},
    constant=_CONSTANT
    | {
        "architectures": ["DreamModel"],
        "auto_map": {
            "AutoConfig": "configuration_dream.DreamConfig",
            "AutoModel": "modeling_dream.DreamModel",
        },
        "sliding_window": None,
    },
    bos_id=151_643,
    eos_id=151_643,
    eot_id=151_645,
    confidence="sampled",
)

LLAMA = Family(
    title="Llama",
    model_types=("llama",),
    tensors=_TENSORS,
    fields=_FIELDS,
    fixed=_AUTOREGRESSIVE | _PLAIN,
    implied=_NO_MASK_IMPLIED,
    repeated={"pad_token_id": "eos_token_id"},
    expected=_EXPECTED | {"attention_bias": False, "mlp_bias": False},
    constant=_CONSTANT | {"architectures": ["LlamaForCausalLM"]},
    bos_id=128_000,
    eos_id=128_001,
    eot_id=128_009,
    free_head_dim=True,
)

QWEN2 = dataclasses.replace(
    DREAM,
    title="Qwen2",
    model_types=("qwen2",),
    fixed=_AUTOREGRESSIVE | {"qkv_bias": True, "qk_norm": False},
    repeated={"pad_token_id": "eos_token_id", "max_window_layers": "num_hidden_layers"},
    implied=_NO_MASK_IMPLIED,
    expected=_QWEN_EXPECTED,
    constant=_CONSTANT | {"architectures": ["Qwen2ForCausalLM"], "sliding_window": None},
    confidence="plain",
    free_head_dim=True,
)

QWEN3 = dataclasses.replace(
    QWEN2,
    title="Qwen3",
    model_types=("qwen3",),
    tensors=_TENSORS | _HEAD_NORMS,
    fixed=_AUTOREGRESSIVE | {"qkv_bias": False, "qk_norm": True},
    # Where it is missing, transformers takes 128, not width / heads.
    implied=_NO_MASK_IMPLIED | {"head_dim": lambda data: 128},
    expected=_QWEN_EXPECTED | {"attention_bias": False},
    constant=_CONSTANT | {"architectures": ["Qwen3ForCausalLM"], "sliding_window": None},
)

SDAR = dataclasses.replace(
    QWEN3,
    title="SDAR",
    model_types=("sdar",),
    fields=_FIELDS | {"block_length": "block_size"},
    fixed={
        "alignment": "same",
        "attention": "block",
        "blocks": "sequence",
        "qkv_bias": False,
        "qk_norm": True,
    },
    implied={
        **_IMPLIED,
        "head_dim": lambda data: 128,
        MASK_KEY: lambda data: _given(data, MASK_KEY, 151_669),
        "block_size": lambda data: 4,
    },
    constant=_CONSTANT
    | {
        "architectures": ["SDARForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_sdar.SDARConfig",
            "AutoModel": "modeling_sdar.SDARModel",
            "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM",
        },
        "sliding_window": None,
        "fuse_cross_entropy": True,
        "debug": False,
        "ep_size": 1,
    },
)

FAST_DLLM = dataclasses.replace(
    QWEN2,
    title="Fast-dLLM v2",
    model_types=("Fast_dLLM_Qwen",),
    fields=_FIELDS | {"block_length": "bd_size"},
    fixed={
        "alignment": "shifted",
        "attention": "block",
        "blocks": "sequence",
        "qkv_bias": True,
        "qk_norm": False,
    },
    implied={
        **_IMPLIED,
        MASK_KEY: lambda data: _given(data, MASK_KEY, 151_665),
        "bd_size": lambda data: 32,
    },
    constant=_CONSTANT
    | {
        "architectures": ["Fast_dLLM_QwenForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration.Fast_dLLM_QwenConfig",
            "AutoModel": "modeling.Fast_dLLM_QwenModel",
            "AutoModelForCausalLM": "modeling.Fast_dLLM_QwenForCausalLM",
        },
        "sliding_window": None,
    },
)


def _a2d(base: Family) -> Family:
    """The form of a family that dllm converts to diffusion (A2D).

    Its code takes the mask of attention from the caller, so `config.json` has no word for the
    pattern; we write it under keys of our own, and take full attention where they are missing.
    """
    return dataclasses.replace(
        base,
        title=f"{base.title} by A2D",
        model_types=(f"a2d-{base.model_types[0]}",),
        fields={**base.fields, **OWN_KEYS},
        fixed={name: base.fixed[name] for name in ("qkv_bias", "qk_norm")},
        implied={
            **base.implied,
            OWN_KEYS["alignment"]: lambda data: "same",
            OWN_KEYS["attention"]: lambda data: "full",
            OWN_KEYS["block_length"]: lambda data: 0,
            OWN_KEYS["blocks"]: lambda data: "generation",
        },
        constant={name: value for name, value in base.constant.items() if name != "architectures"},
    )


A2D = tuple(_a2d(base) for base in (LLAMA, QWEN2, QWEN3))
