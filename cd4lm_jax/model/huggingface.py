"""LLaDA's Hugging Face layout: one table of names for both directions."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from safetensors import safe_open

from cd4lm_jax.model.config import ModelConfig
from cd4lm_jax.model.folder import abstract_model
from cd4lm_jax.model.transformer import Execution, Transformer
from cd4lm_jax.runtime.trees import named_leaves, with_leaves

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

# Our name -> (LLaDA's name, whether torch's [out, in] must be transposed to [in, out]).
# `{}` stands for the layer: those tensors are stacked.
LLADA_TENSORS: dict[str, tuple[str, bool]] = {
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
}

# What the port computes; a checkpoint that asks for anything else is refused, not approximated.
_EXPECTED: dict[str, Any] = {
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
}


class HuggingFaceError(ValueError):
    """A folder that is no LLaDA checkpoint, or one that this port does not compute."""


def is_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """Whether the folder holds safetensors weights."""
    path = pathlib.Path(folder)
    return (path / INDEX_FILE).is_file() or (path / SINGLE_FILE).is_file()


def read_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """The architecture in a LLaDA ``config.json``.

    Raises:
        HuggingFaceError: not LLaDA, or a variant of it that is computed differently.
    """
    file = pathlib.Path(folder) / CONFIG_FILE
    data = json.loads(file.read_text())
    for name, expected in _EXPECTED.items():
        if data.get(name, expected) != expected:
            raise HuggingFaceError(
                f"{file}: {name} is {data[name]!r}; this port computes LLaDA-8B's own "
                f"architecture, where it is {expected!r}"
            )
    heads, width = data["n_heads"], data["d_model"]
    return ModelConfig(
        vocab_size=data["embedding_size"] or data["vocab_size"],
        embed_dim=width,
        num_layers=data["n_layers"],
        num_heads=heads,
        num_kv_heads=data.get("n_kv_heads") or heads,
        head_dim=width // heads,
        mlp_dim=data.get("mlp_hidden_size") or data["mlp_ratio"] * width,
        max_length=data["max_sequence_length"],
        rope_theta=data["rope_theta"],
        norm_eps=data["rms_norm_eps"],
        qkv_bias=bool(data.get("include_qkv_bias")),
        tie_head=bool(data["weight_tying"]),
        mask_id=data["mask_token_id"],
        eos_id=data["eos_token_id"],
        end_ids=_end_ids(data),
    )


def _end_ids(data: dict[str, Any]) -> tuple[int, ...]:
    # LLaDA's config names EOS alone; its chat template ends turns with <|eot_id|>.
    eos = data["eos_token_id"]
    return (eos, 126_348) if eos == 126_081 else (eos,)


def read_model(
    folder: str | os.PathLike[str],
    execution: Execution = Execution(),
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
) -> Transformer:
    """Reads a LLaDA checkpoint, parameters cast to ``dtype``, sharded over ``mesh`` if given.

    Raises:
        HuggingFaceError: a tensor is missing or of another shape than ``config.json`` says.
    """
    path = pathlib.Path(folder)
    config = read_config(path)
    model = abstract_model(config, execution, dtype=dtype, mesh=mesh)
    tensors = _Tensors(path)

    def read(name: str, shape: tuple[int, ...], transpose: bool) -> np.ndarray:
        tensor = tensors.read(name)
        expected = shape[::-1] if transpose else shape
        if tensor.shape != expected:
            raise HuggingFaceError(
                f"{path}: {name} has shape {tensor.shape}, {CONFIG_FILE} makes it {expected}"
            )
        return tensor.T if transpose else tensor

    leaves = {}
    for ours, leaf in named_leaves(model).items():
        theirs, transpose = LLADA_TENSORS[ours]
        if "{}" in theirs:
            names = [theirs.format(layer) for layer in range(config.num_layers)]
            array = np.stack([read(name, leaf.shape[1:], transpose) for name in names])
        else:
            array = read(theirs, leaf.shape, transpose)
        leaves[ours] = jax.device_put(array.astype(leaf.dtype), leaf.sharding)
    return with_leaves(model, leaves)


class _Tensors:
    """The tensors of a folder, sharded or not, read one at a time."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        index = path / INDEX_FILE
        if index.is_file():
            self._files: dict[str, str] = json.loads(index.read_text())["weight_map"]
        else:
            with safe_open(path / SINGLE_FILE, framework="numpy") as file:
                self._files = dict.fromkeys(file.keys(), SINGLE_FILE)

    def read(self, name: str) -> np.ndarray:
        if name not in self._files:
            raise HuggingFaceError(f"{self._path}: there is no tensor {name!r}")
        with safe_open(self._path / self._files[name], framework="numpy") as file:
            tensor: np.ndarray = file.get_tensor(name)
        return tensor
