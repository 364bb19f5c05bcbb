"""The front door: load a model with its tokenizer, decode text, get text and the record back."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cd4lm_jax.decoding import batch, decoder
from cd4lm_jax.decoding.commit import CommitRule
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.model.loading import load_model
from cd4lm_jax.model.transformer import Execution, Transformer

if TYPE_CHECKING:
    from cd4lm_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A transformer and the tokenizer it was trained with.

    Attributes:
        transformer: the parameters.
        tokenizer: None where the folder had none; prompts are then token ids.
    """

    transformer: Transformer
    tokenizer: Tokenizer | None

    def prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        """A question in the chat template as token ids; ids are passed through.

        Raises:
            ValueError: text, and no tokenizer to encode it.
        """
        if not isinstance(prompt, str):
            return list(prompt)
        if self.tokenizer is None:
            raise ValueError(
                "the model's folder has no tokenizer, so prompts must be lists of token ids; copy "
                "tokenizer.json and tokenizer_config.json there to give text"
            )
        return self.tokenizer.prompt(prompt)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoded:
    """What :func:`decode` returns; one entry a prompt, in the order given.

    Attributes:
        trajectory: which position was committed when, and how surely.
        seconds: wall clock of decoding, compilation excluded.
        tokenizer: of the model, for :attr:`text`.
    """

    trajectory: Trajectory
    seconds: float
    tokenizer: Tokenizer | None

    @property
    def nfe(self) -> np.ndarray:
        """Forward passes of every prompt, int32."""
        return self.trajectory.nfe

    @functools.cached_property
    def text(self) -> list[str]:
        """The answers: what was generated before the first end token.

        Raises:
            ValueError: the model has no tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError("the model's folder has no tokenizer; use trajectory.tokens")
        rows = zip(self.trajectory.tokens, self.trajectory.length, strict=True)
        return [self.tokenizer.decode(tokens[:length].tolist()) for tokens, length in rows]


def load(folder: str | os.PathLike[str], *, dtype: str = "float32") -> LanguageModel:
    """Loads a model folder: one that training exported, or a LLaDA Hugging Face checkpoint.

    Args:
        folder: where ``config.json`` lies.
        dtype: what the weights are held and computed in.

    Raises:
        ValueError: no model there, or one that does not fit its config.
    """
    from cd4lm_jax.data.tokenizer import Tokenizer

    transformer = load_model(folder, Execution(dtype=dtype, scan_layers=False), dtype=dtype)
    path = pathlib.Path(folder)
    has_tokenizer = (path / "tokenizer.json").is_file()
    return LanguageModel(transformer, Tokenizer.load(path) if has_tokenizer else None)


def decode(
    model: LanguageModel,
    prompts: Sequence[str | Sequence[int]],
    *,
    commit: CommitRule,
    gen_length: int,
    block_length: int,
    stop_at_eos: bool = True,
    eos_gate_ratio: float = 0.0,
    max_steps_per_block: int = 0,
    cfg_scale: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    eos_token_ids: tuple[int, ...] | None = None,
    propose_mask: bool = False,
    batch_size: int = 8,
) -> Decoded:
    """Answers prompts, each with as many passes as its commit rule asks for.

    Args:
        model: from :func:`load`.
        prompts: questions (put in the chat template), or token ids (taken as they are).
        commit: the commit rule.
        gen_length: generated positions.
        block_length: positions decoded together, left to right by block; divides ``gen_length``.
        stop_at_eos: end a row at its end token instead of filling the whole generation.
        eos_gate_ratio: hold back end tokens until this share is committed (CD4LM).
        max_steps_per_block: after so many passes one more commits all that is left of a block;
            0: no limit.
        cfg_scale: classifier-free guidance (LLaDA); 0: none.
        temperature: draw tokens with Gumbel noise (LLaDA); 0: take the best.
        seed: of the noise.
        eos_token_ids: tokens that the gate holds back; the model's end tokens if None.
        propose_mask: as the published code does, see :class:`cd4lm_jax.decoding.decoder.Shape`.
        batch_size: prompts decoded at once.

    Raises:
        ValueError: prompts or lengths that do not fit the model or each other.
    """
    if not 0.0 <= eos_gate_ratio <= 1.0:
        raise ValueError(f"eos_gate_ratio={eos_gate_ratio} is no share; give one from 0 to 1")
    for name, value in (
        ("max_steps_per_block", max_steps_per_block),
        ("cfg_scale", cfg_scale),
        ("temperature", temperature),
    ):
        if not value >= 0:
            raise ValueError(f"{name}={value}; give 0 (off) or more")
    config = model.transformer.config
    shape = decoder.Shape(
        gen_length=gen_length,
        block_length=block_length,
        eos_token_ids=config.end_ids if eos_token_ids is None else eos_token_ids,
        stop_at_eos=stop_at_eos,
        guided=cfg_scale > 0.0,
        sampled=temperature > 0.0,
        propose_mask=propose_mask,
    )
    limits = decoder.Limits(
        eos_gate_ratio=eos_gate_ratio,
        max_steps_per_block=max_steps_per_block,
        cfg_scale=cfg_scale,
        temperature=temperature,
    )
    ids = [model.prompt_ids(prompt) for prompt in prompts]
    trajectory, seconds = batch.decode(
        model.transformer, ids, commit, shape=shape, limits=limits, batch_size=batch_size, seed=seed
    )
    return Decoded(trajectory=trajectory, seconds=seconds, tokenizer=model.tokenizer)
