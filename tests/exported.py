"""Tiny random models in folders as training exports them, with gsm_mini's tokenizer."""

from __future__ import annotations

import dataclasses
import pathlib

from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.model.config import ModelConfig
from cd4lm_jax.model.folder import write_model
from tests.models import TINY, tiny_model


def config() -> ModelConfig:
    """The tiny architecture over gsm_mini's vocabulary, with room for its problems."""
    tokenizer = vocabulary.load()
    return dataclasses.replace(
        TINY,
        vocab_size=tokenizer.vocab_size,
        max_length=192,
        mask_id=tokenizer.mask_id,
        eos_id=tokenizer.eos_id,
        end_ids=(tokenizer.eos_id, tokenizer.eot_id),
    )


def export(folder: pathlib.Path, *, seed: int = 0) -> str:
    """Writes a model folder; returns its path."""
    write_model(folder, tiny_model(config(), seed=seed, sharpness=4.0))
    vocabulary.load().save(folder)
    return str(folder)
