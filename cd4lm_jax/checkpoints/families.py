"""Families of published checkpoints: one table each, of tensor names and of config fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from cd4lm_jax.models.config import Confidence, ModelConfig

# A key of our own in config.json; published modelling code passes over what it does not know.
_END_IDS = "end_token_ids"


class HuggingFaceError(ValueError):
    """A folder that is no checkpoint of a known family, or one that this port does not compute."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """How a family names its tensors and describes its architecture; used in both directions.

    Attributes:
        title: what messages call it.
        tensors: our name -> (theirs, whether torch's [out, in] must be transposed to [in, out]).
            `{}` stands for the layer: those tensors are stacked.
        fields: field of ModelConfig -> key of `config.json`.
        fixed: fields of ModelConfig that have one value in the whole family.
        confidence: `ModelConfig.confidence` of the family's own sampler.
        implied: key -> its value where `config.json` lacks it, has null or 0, from the others.
        repeated: key -> another key whose value it repeats; written, not read.
        expected: what the port computes; a checkpoint that asks for anything else is refused, not
            approximated.
        constant: what the published modelling code wants to read besides; nothing of it changes
            the numbers.
        bos_id, eos_id, eot_id: of the published vocabulary. `config.json` names EOS alone, yet
            the chat template ends turns with EOT.
    """

    title: str
    tensors: Mapping[str, tuple[str, bool]]
    fields: Mapping[str, str]
    fixed: Mapping[str, Any]
    implied: Mapping[str, Callable[[Mapping[str, Any]], Any]]
    repeated: Mapping[str, str]
    expected: Mapping[str, Any]
    constant: Mapping[str, Any]
    bos_id: int
    eos_id: int
    eot_id: int
    confidence: Confidence = "plain"

    def read(self, data: Mapping[str, Any], where: str) -> ModelConfig:
        """The architecture in the fields of a `config.json`.

        Raises:
            HuggingFaceError: a variant that is computed differently.
            KeyError: a field is missing.
        """
        for key, expected in self.expected.items():
            if data.get(key, expected) != expected:
                raise HuggingFaceError(
                    f"{where}: {key} is {data[key]!r}; this port computes {self.title}'s own "
                    f"architecture, where it is {expected!r}"
                )

        def value(key: str) -> Any:
            return data.get(key) or self.implied[key](data) if key in self.implied else data[key]

        fields = {field: value(key) for field, key in self.fields.items()}
        eos = fields["eos_id"]
        published = (eos, self.eot_id) if eos == self.eos_id else (eos,)
        return ModelConfig(
            head_dim=fields["embed_dim"] // fields["num_heads"],
            end_ids=tuple(data.get(_END_IDS, published)),
            confidence=self.confidence,
            **fields,
            **self.fixed,
        )

    def computes(self, config: ModelConfig) -> bool:
        """Whether the family's published code computes this architecture."""
        same = all(getattr(config, field) == value for field, value in self.fixed.items())
        return same and config.head_dim * config.num_heads == config.embed_dim

    def describe(self, config: ModelConfig, dtype: str) -> dict[str, Any]:
        """The `config.json` of an architecture; `read` reads it back."""
        own = {key: getattr(config, field) for field, key in self.fields.items()}
        own |= {key: own[other] for key, other in self.repeated.items()}
        own |= {_END_IDS: list(config.end_ids), "torch_dtype": dtype}
        return dict(self.constant) | dict(self.expected) | own

    def generation(self, config: ModelConfig) -> dict[str, Any]:
        """The `generation_config.json` of an architecture."""
        ids = {"eos_token_id": config.eos_id, "pad_token_id": config.eos_id}
        if config.eos_id == self.eos_id:
            ids["bos_token_id"] = self.bos_id
        return {"_from_model_config": True} | ids


LLADA = Family(
    title="LLaDA-8B",
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
        "model_type": "llada",
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
    confidence="sampled",
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
        "model_type": "Dream",
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
)

FAMILIES = {family.expected["model_type"]: family for family in (LLADA, DREAM)}
_SUPPORTED = ", ".join(f"{kind!r} ({family.title})" for kind, family in FAMILIES.items())
_EXPERTS = ("num_experts", "n_routed_experts", "moe_", "expert_")


def family_of(data: Mapping[str, Any], where: str) -> Family:
    """The family that a `config.json` names.

    Raises:
        HuggingFaceError: none of ours.
        KeyError: it names none.
    """
    kind = data["model_type"]
    # LLaDA-MoE shares its model_type with LLaDA-8B.
    experts = [key for key in data if key.startswith(_EXPERTS)]
    if kind == "llada" and (experts or ("hidden_size" in data and "d_model" not in data)):
        sign = experts[0] if experts else "hidden_size"
        raise HuggingFaceError(
            f"{where}: model_type 'llada' with {sign!r} is LLaDA-MoE, a mixture of experts, which "
            f"this port does not compute; give a checkpoint of {_SUPPORTED}"
        )
    if kind not in FAMILIES:
        raise HuggingFaceError(f"{where}: model_type is {kind!r}; expected one of {_SUPPORTED}")
    return FAMILIES[kind]


def family_for(config: ModelConfig) -> Family:
    """The family whose published code computes this architecture.

    Raises:
        HuggingFaceError: there is none.
    """
    for family in FAMILIES.values():
        if family.computes(config):
            return family
    raise HuggingFaceError(
        "published code computes heads of embed_dim / num_heads, and alignment 'same' (LLaDA) or "
        f"'shifted' with qkv_bias (Dream); this model has alignment {config.alignment!r}, qkv_bias "
        f"{config.qkv_bias} and {config.num_heads} heads of {config.head_dim} in a width of "
        f"{config.embed_dim}, so it cannot be exported"
    )
