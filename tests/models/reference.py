"""The transformer once more, to be read: NumPy, float64, one row, one head at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cd4lm_jax.models.config import ModelConfig


def forward(
    config: ModelConfig, parameters: Mapping[str, np.ndarray], tokens: np.ndarray
) -> np.ndarray:
    """Logits `[length, vocab]` of a row `[length]` without padding."""
    p = {name: leaf.astype(np.float64) for name, leaf in parameters.items()}

    def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + config.norm_eps) * scale

    def rotate(x: np.ndarray) -> np.ndarray:
        """Dimensions i and i + half are a complex number, turned by position times frequency."""
        half = (config.rotary_dim or config.head_dim) // 2
        frequency = config.rope_theta ** (-np.arange(half) / half)
        turn = np.exp(1j * np.outer(np.arange(len(x)), frequency))
        turned = (x[:, :half] + 1j * x[:, half : 2 * half]) * turn
        return np.concatenate([turned.real, turned.imag, x[:, 2 * half :]], axis=-1)

    def attends(query: int, key: int) -> bool:
        if config.attention == "full":
            return True
        if config.attention == "causal":
            return key <= query
        return key // config.block_length <= query // config.block_length

    def head(x: np.ndarray, index: int) -> np.ndarray:
        return x[:, index * config.head_dim : (index + 1) * config.head_dim]

    pairs = [[attends(query, key) for key in range(len(tokens))] for query in range(len(tokens))]
    x = p["embedding"][tokens]
    for layer in range(config.num_layers):
        block = {
            name.removeprefix("blocks."): leaf[layer]
            for name, leaf in p.items()
            if name.startswith("blocks.")
        }
        normed = norm(x, block["attention_norm"])
        query, key, value = (
            normed @ block[name] + block.get(f"{name}_bias", 0.0)
            for name in ("query", "key", "value")
        )
        mixed = []
        for index in range(config.num_heads):
            shared = index // (config.num_heads // config.num_kv_heads)
            one, other = head(query, index), head(key, shared)
            if config.qk_norm:
                one, other = norm(one, block["query_norm"]), norm(other, block["key_norm"])
            scores = rotate(one) @ rotate(other).T
            weights = np.exp(scores / np.sqrt(config.head_dim)) * pairs
            weights /= weights.sum(axis=-1, keepdims=True)
            mixed.append(weights @ head(value, shared))
        x = x + np.concatenate(mixed, axis=-1) @ block["attention_out"]
        normed = norm(x, block["mlp_norm"])
        gate = normed @ block["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (normed @ block["up"])) @ block["down"]
    x = norm(x, p["norm"])
    if config.alignment == "shifted":
        x = np.concatenate([x[:1], x[:-1]])
    return x @ (p["embedding"].T if config.tie_head else p["head"])
