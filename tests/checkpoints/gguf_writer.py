"""GGUF files as llama.cpp's converter makes them of published folders."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import tokenizers

from cd4lm_jax.checkpoints import gguf_files
from tests.checkpoints import published

gguf = pytest.importorskip("gguf")

CHAT = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def write(source: pathlib.Path, file: pathlib.Path, kind: str, **changes: Any) -> None:
    """What llama.cpp's converter makes of a published folder, with a tokenizer of single bytes."""
    data = json.loads((source / "config.json").read_text())
    heads = {"q_proj": data["num_attention_heads"], "k_proj": data["num_key_value_heads"]}
    writer = gguf.GGUFWriter(file, kind)
    writer.add_context_length(data["max_position_embeddings"])
    writer.add_embedding_length(data["hidden_size"])
    writer.add_block_count(data["num_hidden_layers"])
    writer.add_feed_forward_length(data["intermediate_size"])
    writer.add_head_count(heads["q_proj"])
    writer.add_head_count_kv(heads["k_proj"])
    if "head_dim" in data:
        writer.add_key_length(data["head_dim"])
    writer.add_rope_freq_base(data["rope_theta"])
    writer.add_layer_norm_rms_eps(data["rms_norm_eps"])
    writer.add_tokenizer_model(changes.get("model", "gpt2"))
    writer.add_tokenizer_pre(changes.get("pre", "default"))
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = [*MARKS, "ab", "Ġ", *(each for each in letters if each != "Ġ")][: data["vocab_size"]]
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(MARKS) + [1] * (len(tokens) - len(MARKS)))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(data["eos_token_id"])
    writer.add_chat_template(CHAT)
    if scaling := changes.get("scaling"):
        writer.add_rope_scaling_type(scaling)
    for name, tensor in published.read(source).items():
        part = name.split(".")[-2]
        if kind == "llama" and part in heads:
            shape = (heads[part], 2, len(tensor) // heads[part] // 2, *tensor.shape[1:])
            tensor = np.ascontiguousarray(
                tensor.reshape(shape).swapaxes(1, 2).reshape(tensor.shape)
            )
        writer.add_tensor(gguf_files._theirs(name), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
