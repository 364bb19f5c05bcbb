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
from safetensors.numpy import save_file

from cd4lm_jax.model.config import ModelConfig
from cd4lm_jax.model.folder import abstract_model
from cd4lm_jax.model.transformer import Execution, Transformer
from cd4lm_jax.runtime import files
from cd4lm_jax.runtime.trees import named_leaves, with_leaves

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

# A key of our own in config.json; LLaDA's own code passes over what it does not know.
_END_IDS = "end_token_ids"

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
# What the published modelling code wants to read besides; nothing of it changes the numbers.
_CONSTANT: dict[str, Any] = {
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
}
_LLADA_EOS, _LLADA_EOT = 126_081, 126_348
_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


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
    try:
        data = json.loads(file.read_text())
        return _config(file, data)
    except FileNotFoundError:
        raise HuggingFaceError(f"{file} is missing; copy it from the checkpoint's hub") from None
    except json.JSONDecodeError as error:
        raise HuggingFaceError(f"{file} is not JSON ({error.msg}); fetch it again") from None
    except KeyError as error:
        raise HuggingFaceError(f"{file} has no {error}; LLaDA's own has, fetch it again") from None


def _config(file: pathlib.Path, data: dict[str, Any]) -> ModelConfig:
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
    published = (eos, _LLADA_EOT) if eos == _LLADA_EOS else (eos,)
    return tuple(data.get(_END_IDS, published))


def describe(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """The LLaDA ``config.json`` of an architecture; :func:`read_config` reads it back.

    Raises:
        HuggingFaceError: LLaDA's published code cannot compute this model.
    """
    if config.alignment != "same" or config.head_dim * config.num_heads != config.embed_dim:
        raise HuggingFaceError(
            f"LLaDA's published code computes alignment 'same' and heads of embed_dim / num_heads; "
            f"this model has alignment {config.alignment!r} and {config.num_heads} heads of "
            f"{config.head_dim} in a width of {config.embed_dim}, so it cannot be exported"
        )
    return (
        _CONSTANT
        | _EXPECTED
        | {
            "d_model": config.embed_dim,
            "embedding_size": config.vocab_size,
            _END_IDS: list(config.end_ids),
            "eos_token_id": config.eos_id,
            "include_qkv_bias": config.qkv_bias,
            "mask_token_id": config.mask_id,
            "max_sequence_length": config.max_length,
            "mlp_hidden_size": config.mlp_dim,
            "n_heads": config.num_heads,
            "n_kv_heads": config.num_kv_heads,
            "n_layers": config.num_layers,
            "pad_token_id": config.eos_id,
            "rms_norm_eps": config.norm_eps,
            "rope_theta": config.rope_theta,
            "torch_dtype": dtype,
            "vocab_size": config.vocab_size,
            "weight_tying": config.tie_head,
        }
    )


def stored_dtype(folder: str | os.PathLike[str]) -> str:
    """The dtype that a checkpoint's weights are stored in (its first tensor's).

    Raises:
        HuggingFaceError: one that is no floating-point type of 2 or 4 bytes.
    """
    kind = _Tensors(pathlib.Path(folder)).first_kind()
    if kind not in _STORED:
        raise HuggingFaceError(f"{folder}: weights of type {kind}; expected one of {list(_STORED)}")
    return _STORED[kind]


def write_model(
    folder: str | os.PathLike[str], model: Transformer, *, shard_bytes: int = 5_000_000_000
) -> None:
    """Writes a LLaDA checkpoint: ``config.json``, safetensors shards and their index.

    Args:
        folder: an existing folder; what else lies there stays.
        model: its parameters are stored in the dtype that they have.
        shard_bytes: most bytes of tensors a file, unless one tensor alone is larger.

    Raises:
        HuggingFaceError: LLaDA's published code cannot compute this model.
        OSError: the disk is full.
    """
    path = pathlib.Path(folder)
    leaves = named_leaves(model)
    description = describe(model.config, str(leaves["embedding"].dtype))
    # Name in the file -> (our leaf, layer if stacked, transposed), without any array yet.
    plan: dict[str, tuple[str, int | None, bool]] = {}
    for ours in leaves:
        theirs, transpose = LLADA_TENSORS[ours]
        layers = range(model.config.num_layers) if "{}" in theirs else [None]
        plan |= {theirs.format(layer): (ours, layer, transpose) for layer in layers}

    def size(name: str) -> int:
        ours, layer, _ = plan[name]
        return leaves[ours].nbytes // (1 if layer is None else model.config.num_layers)

    shards: list[list[str]] = [[]]
    for name in plan:
        if shards[-1] and sum(map(size, shards[-1])) + size(name) > shard_bytes:
            shards.append([])
        shards[-1].append(name)

    def tensor(name: str) -> np.ndarray:
        ours, layer, transpose = plan[name]
        array = np.asarray(leaves[ours] if layer is None else leaves[ours][layer])
        return np.ascontiguousarray(array.T if transpose else array)

    placed: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        with files.atomic_path(path / file) as temporary:
            # The metadata is what transformers looks for.
            save_file({name: tensor(name) for name in names}, temporary, metadata={"format": "pt"})
        placed |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(map(size, plan))}, "weight_map": placed}
    files.write_text(path / INDEX_FILE, json.dumps(index, indent=2, sort_keys=True) + "\n")
    files.write_text(path / CONFIG_FILE, json.dumps(description, indent=2, sort_keys=True) + "\n")


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
    if unknown := tensors.unread():
        raise HuggingFaceError(
            f"{path}: {unknown[0]!r} is no tensor of the model that {CONFIG_FILE} describes"
        )
    return with_leaves(model, leaves)


class _Tensors:
    """The tensors of a folder, sharded or not, read one at a time."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._read: set[str] = set()
        index = path / INDEX_FILE
        if index.is_file():
            self._files: dict[str, str] = json.loads(index.read_text())["weight_map"]
        else:
            with safe_open(path / SINGLE_FILE, framework="numpy") as file:
                self._files = dict.fromkeys(file.keys(), SINGLE_FILE)

    def first_kind(self) -> str:
        """The first tensor's type as the file names it."""
        name, file = next(iter(self._files.items()))
        with safe_open(self._path / file, framework="numpy") as opened:
            return str(opened.get_slice(name).get_dtype())

    def unread(self) -> list[str]:
        """Tensors that nobody asked for."""
        return sorted(self._files.keys() - self._read)

    def read(self, name: str) -> np.ndarray:
        if name not in self._files:
            raise HuggingFaceError(f"{self._path}: there is no tensor {name!r}")
        self._read.add(name)
        with safe_open(self._path / self._files[name], framework="numpy") as file:
            tensor: np.ndarray = file.get_tensor(name)
        return tensor
