"""Dream once more, to be read: NumPy, float64, its own names, torch's layout, one row.

Qwen2.5's decoder without the causal mask; what the model says of token i stands at i - 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def logits(
    config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], tokens: np.ndarray
) -> np.ndarray:
    """`[length, vocab]` for a row `[length]`, aligned: entry i is about token i."""
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    length, size = len(tokens), config["hidden_size"] // heads

    def weight(name: str) -> np.ndarray:
        return tensors[name].astype(np.float64)

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weight(f"{name}.weight").T

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        mean = np.mean(x * x, axis=-1, keepdims=True)
        return weight(f"{name}.weight") * (x / np.sqrt(mean + config["rms_norm_eps"]))

    frequencies = 1 / config["rope_theta"] ** (np.arange(0, size, 2) / size)
    angles = np.outer(np.arange(length), np.concatenate([frequencies, frequencies]))

    def rotate(x: np.ndarray) -> np.ndarray:
        """`[heads, length, size]`, the halves of a head turned against each other."""
        half = np.concatenate([-x[..., size // 2 :], x[..., : size // 2]], axis=-1)
        return x * np.cos(angles) + half * np.sin(angles)

    def project(name: str, x: np.ndarray, count: int) -> np.ndarray:
        with_bias = linear(name, x) + weight(f"{name}.bias")
        return with_bias.reshape(length, count, size).transpose(1, 0, 2)

    x = weight("model.embed_tokens.weight")[tokens]
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        normed = norm(f"{layer}.input_layernorm", x)
        query = rotate(project(f"{layer}.self_attn.q_proj", normed, heads))
        key = rotate(project(f"{layer}.self_attn.k_proj", normed, groups))
        value = project(f"{layer}.self_attn.v_proj", normed, groups)
        key, value = (np.repeat(shared, heads // groups, axis=0) for shared in (key, value))
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(size)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = weights / weights.sum(axis=-1, keepdims=True) @ value
        x = x + linear(f"{layer}.self_attn.o_proj", mixed.transpose(1, 0, 2).reshape(length, -1))
        normed = norm(f"{layer}.post_attention_layernorm", x)
        gate = linear(f"{layer}.mlp.gate_proj", normed)
        gated = gate / (1 + np.exp(-gate)) * linear(f"{layer}.mlp.up_proj", normed)
        x = x + linear(f"{layer}.mlp.down_proj", gated)
    raw = linear("lm_head", norm("model.norm", x))
    return np.concatenate([raw[:1], raw[:-1]])
