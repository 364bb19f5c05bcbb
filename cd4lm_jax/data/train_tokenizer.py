"""A small byte-level BPE tokenizer with LLaDA's special tokens, trained on texts."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import models, pre_tokenizers, trainers

from cd4lm_jax.data.special_tokens import LLADA
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.data.tokenizer_files import byte_level

# Renders as LLaDA's own: it writes the BOS itself and always ends after the assistant's header.
# Line breaks stand within expressions, for jinja drops the last one of a template's plain text.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim }}{{ '<|eot_id|>' }}"
    "{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)

# A word takes its leading space with it; a digit and any other sign stand alone.
_WORDS = r" ?\p{L}+|\p{N}|#+|[^\s\p{L}\p{N}]|\n+|\s"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a tokenizer; the same for the same texts.

    Args:
        texts: what to learn words from.
        vocab_size: tokens in all: 6 special, 256 bytes, the rest merges.
    """
    encoder = byte_level(models.BPE(), _WORDS)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=list(LLADA.names),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    encoder.train_from_iterator(texts, trainer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": LLADA.bos,
        "eos_token": LLADA.eos,
        "pad_token": LLADA.eos,
        "mask_token": LLADA.mask,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    return Tokenizer(encoder.to_str(), config)
