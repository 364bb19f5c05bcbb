"""What a masked-diffusion transformer is made of: one frozen description, and presets."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

from cd4lm_jax.models.experts import ExpertsConfig
from cd4lm_jax.settings.choices import nearest

Alignment = Literal["same", "shifted"]
Confidence = Literal["plain", "sampled"]
Attention = Literal["full", "block", "causal"]
BlockOrigin = Literal["generation", "sequence"]

NO_MASK = -1
"""The `mask_id` of a model that has no mask token."""

DTYPES = ("float32", "bfloat16", "float16")
"""What a model's parameters and activations may be."""


def check_dtype(dtype: str, name: str) -> None:
    """Raises ValueError, naming the argument, where a model cannot have this dtype."""
    if dtype not in DTYPES:
        raise ValueError(f"{name}={dtype!r} is no dtype of a model; {nearest(dtype, list(DTYPES))}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of a LLaDA-type model (LLaDA, arXiv 2502.09992, section 2.2 and its config).

    With `qk_norm` it is that of Qwen3, with `qkv_bias` that of Qwen2, with neither that of Llama.

    Attributes:
        vocab_size: rows of the embedding and columns of the head.
        embed_dim: width of the residual stream.
        num_layers: transformer blocks.
        num_heads: query heads; a multiple of `num_kv_heads`.
        num_kv_heads: key/value heads.
        head_dim: width of a head, even (rotary pairs).
        mlp_dim: width of the gated MLP's hidden layer.
        max_length: most tokens (prompt and generation) in one sequence.
        rope_theta: base of the rotary wavelengths. Small models need a small one: at 500,000
            nearly all wavelengths exceed a short sequence and order is not learnt.
        norm_eps: epsilon of every RMSNorm.
        qkv_bias: biases on query, key and value (Dream, Qwen2.5).
        qk_norm: every head of the queries and keys is normalised before the rotation, by one scale
            a layer for all query heads and one for all key heads (Qwen3).
        rotary_dim: dimensions of a head that are rotated, from the first; 0 for all of them.
        tie_head: the head is the transposed embedding.
        experts: of layers that have experts in place of the MLP; None where none has.
        attention: what a position attends: `full` all positions, `block` its own block and earlier
            ones (SDAR, LLaDA2, Fast-dLLM v2), `causal` itself and earlier ones (autoregressive).
        block_length: positions of a block that the model was trained with; 0 where it has none.
        blocks: where blocks are counted from: the first position of the `generation` (then only
            the caller knows them) or of the `sequence`.
        mask_id: the token that stands for "not yet known"; -1 where the model has none, as an
            autoregressive checkpoint. It computes logits, but is not decoded by diffusion.
        eos_id: the token that fills what follows an answer.
        end_ids: tokens that end an answer (EOS, EOT).
        alignment: `same` (logits at i predict token i, LLaDA) or `shifted` (logits at i-1
            predict token i: Dream, and every autoregressive model).
        confidence: where tokens are drawn, a token's confidence is its probability at temperature 1
            (`plain`, LLaDA) or in the distribution that is drawn from (`sampled`, Dream).
    """

    vocab_size: int
    embed_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    max_length: int
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    qk_norm: bool = False
    rotary_dim: int = 0
    tie_head: bool = False
    experts: ExpertsConfig | None = None
    attention: Attention = "full"
    block_length: int = 0
    blocks: BlockOrigin = "generation"
    mask_id: int
    eos_id: int
    end_ids: tuple[int, ...]
    alignment: Alignment = "same"
    confidence: Confidence = "plain"

    def __post_init__(self) -> None:
        for field in (
            "vocab_size",
            "embed_dim",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "mlp_dim",
            "max_length",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)}; give 1 or more")
        if not 0 < self.rope_theta < math.inf:
            raise ValueError(f"rope_theta={self.rope_theta}; give a number above 0")
        if not 0 <= self.norm_eps < math.inf:
            raise ValueError(f"norm_eps={self.norm_eps}; give a number of 0 or more")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} is not a multiple of num_kv_heads="
                f"{self.num_kv_heads}; each key/value head serves a whole group of query heads"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim={self.head_dim} is odd; rotary embedding pairs the dimensions of a "
                "head, give an even one"
            )
        if not 0 <= self.rotary_dim <= self.head_dim or self.rotary_dim % 2:
            raise ValueError(
                f"rotary_dim={self.rotary_dim}; give an even number up to head_dim="
                f"{self.head_dim}, or 0 for the whole head"
            )
        if self.experts and self.dense_layers >= self.num_layers:
            raise ValueError(
                f"experts.dense_layers={self.dense_layers} of num_layers={self.num_layers}; some "
                "layer must have experts, or give experts=None"
            )
        self._check_blocks()
        self._check_tokens()

    def _check_blocks(self) -> None:
        for name, choices in (("attention", Attention), ("blocks", BlockOrigin)):
            if getattr(self, name) not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; give one of {known}")
        if self.block_length < 0 or (self.attention == "block" and not self.block_length):
            raise ValueError(
                f"block_length={self.block_length} with attention={self.attention!r}; give the "
                "block that the model was trained with, 1 or more"
            )

    def _check_tokens(self) -> None:
        special = {"eos_id": self.eos_id}
        if self.mask_id != NO_MASK:
            special["mask_id"] = self.mask_id
        special |= {f"end_ids[{i}]": token for i, token in enumerate(self.end_ids)}
        for name, token in special.items():
            if not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"{name}={token} is outside the vocabulary of {self.vocab_size} tokens; "
                    "give an id the model has an embedding for"
                )
        if self.mask_id in (self.eos_id, *self.end_ids):
            raise ValueError(
                f"mask_id={self.mask_id} is also an end token; a mask can never be produced, so "
                "no answer could end"
            )

    def check_mask(self) -> None:
        """Raises ValueError where the model has no mask token: only diffusion needs one."""
        if self.mask_id == NO_MASK:
            raise ValueError(
                "the model has no mask token: it is autoregressive and cannot be decoded or "
                "trained by diffusion as it is; make a diffusion model of it with `cd4lm convert "
                "--diffusion=block --block_length=32 --source=... --target=...`"
            )

    @property
    def dense_layers(self) -> int:
        """First layers with an ordinary MLP in a model of experts; 0 in any other."""
        return self.experts.dense_layers if self.experts else 0

    @property
    def num_parameters(self) -> int:
        """Trainable scalars, embedding and head included."""
        queries = self.num_heads * self.head_dim
        keys = self.num_kv_heads * self.head_dim
        attention = self.embed_dim * (2 * queries + 2 * keys)
        biases = queries + 2 * keys if self.qkv_bias else 0
        norms = 2 * self.embed_dim + (2 * self.head_dim if self.qk_norm else 0)
        mlps = self.num_layers * 3 * self.embed_dim * self.mlp_dim
        if self.experts:
            kernels = 3 * self.embed_dim * self.experts.width
            router = self.experts.count * (self.embed_dim + self.experts.biased)
            each = (self.experts.count + self.experts.shared) * kernels + router
            dense = self.dense_layers
            mlps = dense * mlps // self.num_layers + (self.num_layers - dense) * each
        block = attention + biases + norms
        tables = self.vocab_size * self.embed_dim * (1 if self.tie_head else 2)
        return self.num_layers * block + mlps + tables + self.embed_dim


def gsm_mini(
    *, vocab_size: int, mask_id: int, eos_id: int, eot_id: int, **changes: object
) -> ModelConfig:
    """The bundled demonstration's model: it trains on two CPU cores within the hour."""
    config = ModelConfig(
        vocab_size=vocab_size,
        embed_dim=128,
        num_layers=4,
        num_heads=4,
        num_kv_heads=4,
        head_dim=32,
        mlp_dim=384,
        max_length=192,
        rope_theta=100.0,
        mask_id=mask_id,
        eos_id=eos_id,
        end_ids=(eos_id, eot_id),
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def llada_8b() -> ModelConfig:
    """LLaDA-8B (Base, Instruct and 1.5), as in its Hugging Face `config.json`."""
    return ModelConfig(
        vocab_size=126_464,
        embed_dim=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
        mlp_dim=12_288,
        max_length=4096,
        mask_id=126_336,
        eos_id=126_081,
        end_ids=(126_081, 126_348),
    )


def dream_7b() -> ModelConfig:
    """Dream-7B (Base and Instruct): Qwen2.5-7B with bidirectional attention, logits shifted."""
    return ModelConfig(
        vocab_size=152_064,
        embed_dim=3584,
        num_layers=28,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        mlp_dim=18_944,
        max_length=131_072,
        rope_theta=1_000_000.0,
        norm_eps=1e-6,
        qkv_bias=True,
        mask_id=151_666,
        eos_id=151_643,
        end_ids=(151_643, 151_645),
        alignment="shifted",
        confidence="sampled",
    )


def sdar_1_7b() -> ModelConfig:
    """SDAR-1.7B-Chat: Qwen3-1.7B with block attention, the head not tied."""
    return ModelConfig(
        vocab_size=151_936,
        embed_dim=2048,
        num_layers=28,
        num_heads=16,
        num_kv_heads=8,
        head_dim=128,
        mlp_dim=6144,
        max_length=32_768,
        rope_theta=1_000_000.0,
        norm_eps=1e-6,
        qk_norm=True,
        attention="block",
        block_length=4,
        blocks="sequence",
        mask_id=151_669,
        eos_id=151_643,
        end_ids=(151_643, 151_645),
    )


def llada2_mini() -> ModelConfig:
    """LLaDA2.0-mini: 16B parameters, of which a token uses 1.4B."""
    return ModelConfig(
        vocab_size=157_184,
        embed_dim=2048,
        num_layers=20,
        num_heads=16,
        num_kv_heads=4,
        head_dim=128,
        mlp_dim=5120,
        max_length=32_768,
        rope_theta=600_000.0,
        norm_eps=1e-6,
        qk_norm=True,
        rotary_dim=64,
        experts=ExpertsConfig(
            count=256,
            per_token=8,
            width=512,
            shared=1,
            dense_layers=1,
            biased=True,
            groups=8,
            groups_per_token=4,
            scale=2.5,
        ),
        attention="block",
        block_length=32,
        blocks="sequence",
        mask_id=156_895,
        eos_id=156_892,
        end_ids=(156_892,),
    )
