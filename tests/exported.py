"""Tiny random models in folders as training exports them, with gsm_mini's tokenizer."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Sequence

from cd4lm_jax.checkpoints.model_folder import write_model
from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.data.special_tokens import LLADA
from cd4lm_jax.data.train_tokenizer import train_tokenizer
from cd4lm_jax.models.config import ModelConfig
from tests.tiny import TINY, tiny_model


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


def with_tokenizer(checkpoint: pathlib.Path, folder: pathlib.Path, texts: Sequence[str]) -> str:
    """A LLaDA checkpoint that came without tokenizer, with one trained on texts; its new path.

    The end and mask tokens have the ids that the checkpoint's config.json gives them.
    """
    shutil.copytree(checkpoint, folder)
    settings = json.loads((folder / "config.json").read_text())
    trained = train_tokenizer(texts, settings["vocab_size"])
    trained.save(folder)
    file = folder / "tokenizer.json"
    definition = json.loads(file.read_text())
    vocabulary = definition["model"]["vocab"]
    given = {LLADA.eos: settings["eos_token_id"], LLADA.mask: settings["mask_token_id"]}
    places = iter(sorted(set(range(settings["vocab_size"])) - set(given.values())))
    # Ordinary tokens keep their order, for merges go by it; the other special ones come last.
    order = sorted(vocabulary, key=lambda name: (name in LLADA.names, vocabulary[name]))
    ids = given | {name: next(places) for name in order if name not in given}
    definition["model"]["vocab"] = ids
    for token in definition["added_tokens"]:
        token["id"] = ids[token["content"]]
    definition["added_tokens"].sort(key=lambda token: token["id"])
    file.write_text(json.dumps(definition))
    return str(folder)
