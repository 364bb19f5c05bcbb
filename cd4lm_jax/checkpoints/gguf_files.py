"""GGUF files of Llama's kind (llama, qwen2, qwen3), read as if they were published folders.

llama.cpp names tensors its own way, stores them quantised, and permutes the rows of Llama's
queries and keys so that a rotation's pairs lie side by side. Here they come dequantised, a few
rows at a time, in the order and under the names of transformers.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from cd4lm_jax.checkpoints.family import Family, HuggingFaceError
from cd4lm_jax.checkpoints.family_llama import LLAMA, QWEN2, QWEN3
from cd4lm_jax.checkpoints.huggingface import Checkpoint
from cd4lm_jax.checkpoints.published_tensors import all_tensors

if TYPE_CHECKING:
    import gguf

_FAMILIES = {"llama": LLAMA, "qwen2": QWEN2, "qwen3": QWEN3}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_SCALED_ROPE = "rope_freqs.weight"


def is_gguf(source: str | os.PathLike[str]) -> bool:
    """Whether a path is that of a GGUF file."""
    return pathlib.Path(source).suffix == ".gguf" and pathlib.Path(source).is_file()


def reader(file: str | os.PathLike[str]) -> gguf.GGUFReader:
    """The file's metadata and tensors, mapped into memory.

    Raises:
        HuggingFaceError: the package `gguf` is missing, or the file is damaged.
    """
    try:
        import gguf
    except ImportError:
        raise HuggingFaceError(
            f"{file}: reading GGUF takes the package gguf; install cd4lm-jax[gguf]"
        ) from None
    try:
        return gguf.GGUFReader(file)
    except (ValueError, IndexError, KeyError) as error:
        raise HuggingFaceError(f"{file} is no GGUF file, or damaged ({error})") from None


def metadata(opened: gguf.GGUFReader) -> dict[str, Any]:
    """The metadata of a file by name."""
    return {name: field.contents() for name, field in opened.fields.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """A tensor of a GGUF file, as `Stored` is one of a safetensors file.

    Attributes:
        file: where it is.
        tensor: gguf's own entry.
        heads: of queries or keys whose rows are permuted; 0 where none are.
    """

    file: pathlib.Path
    tensor: Any
    heads: int

    kind = "F32"
    dtype = np.dtype("float32")

    @property
    def shape(self) -> tuple[int, ...]:
        """Torch's, `[out, in]`."""
        return tuple(int(size) for size in self.tensor.shape[::-1])

    def rows(self, start: int, stop: int) -> np.ndarray:
        """`[stop - start, ...]`, dequantised to float32."""
        import gguf

        chosen = np.arange(start, stop)
        if self.heads:
            # Theirs: head, pair, half; ours: head, half, pair.
            half = self.shape[0] // self.heads // 2
            head, place = np.divmod(chosen, 2 * half)
            chosen = head * 2 * half + place % half * 2 + place // half
        return np.asarray(
            gguf.quants.dequantize(self.tensor.data[chosen], self.tensor.tensor_type), np.float32
        )


def open_checkpoint(file: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a GGUF file; its parameters are float32.

    Raises:
        HuggingFaceError: of another architecture, or with tensors missing.
    """
    path = pathlib.Path(file)
    opened = reader(path)
    data = metadata(opened)
    found = {tensor.name: tensor for tensor in opened.tensors}
    family, described = _described(data, found.keys(), str(path))
    try:
        config = family.read(described, str(path))
    except KeyError as error:
        raise HuggingFaceError(f"{path} does not give {error}, which Llama's kind has") from None
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
    tensors, stored = all_tensors(family, config), {}
    for tensor in tensors:
        name = _theirs(tensor.name)
        if name not in found:
            raise HuggingFaceError(f"{path}: there is no tensor {name!r}; fetch it again")
        part = tensor.name.split(".")[-2]
        permuted = heads.get(part, 0) if family is LLAMA else 0
        stored[tensor.name] = GgufTensor(file=path, tensor=found[name], heads=permuted)
        if stored[tensor.name].shape != tensor.shape:
            raise HuggingFaceError(
                f"{path}: {name} has shape {stored[tensor.name].shape}, its metadata makes it "
                f"{tensor.shape}"
            )
    return Checkpoint(family=family, config=config, tensors=tensors, stored=stored)


def _theirs(name: str) -> str:
    """llama.cpp's name of a tensor."""
    stem, _, kind = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, layer, part = stem.split(".", 3)
        return f"blk.{layer}.{_NAMES[part]}.{kind}"
    return f"{_NAMES[stem]}.{kind}"


def _described(data: dict[str, Any], names: Any, where: str) -> tuple[Family, dict[str, Any]]:
    """The family and what its `config.json` would say."""
    kind = data.get("general.architecture")
    if kind not in _FAMILIES:
        raise HuggingFaceError(
            f"{where}: architecture is {kind!r}; of GGUF files those of {', '.join(_FAMILIES)} are "
            "read"
        )
    if _SCALED_ROPE in names or data.get(f"{kind}.rope.scaling.type", "none") != "none":
        raise HuggingFaceError(
            f"{where}: its rotary embedding is scaled; this port computes ones of the default type"
        )

    def exact(number: Any) -> float:
        """A float32 as it was written before it was rounded."""
        return float(str(np.float32(number)))

    width, heads = data[f"{kind}.embedding_length"], data[f"{kind}.attention.head_count"]
    described = {
        "vocab_size": data.get(f"{kind}.vocab_size") or len(data["tokenizer.ggml.tokens"]),
        "hidden_size": width,
        "num_hidden_layers": data[f"{kind}.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": data.get(f"{kind}.attention.head_count_kv", heads),
        "head_dim": data.get(f"{kind}.attention.key_length", width // heads),
        "intermediate_size": data[f"{kind}.feed_forward_length"],
        "max_position_embeddings": data[f"{kind}.context_length"],
        "rope_theta": exact(data.get(f"{kind}.rope.freq_base", 10_000.0)),
        "rms_norm_eps": exact(data[f"{kind}.attention.layer_norm_rms_epsilon"]),
        "tie_word_embeddings": "output.weight" not in names,
        "eos_token_id": data["tokenizer.ggml.eos_token_id"],
    }
    if (mask := data.get("tokenizer.ggml.mask_token_id")) is not None:
        described["mask_token_id"] = mask
    return _FAMILIES[kind], described
