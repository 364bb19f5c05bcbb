"""What a decode is compiled for, and what is traced; both follow from a `DecodeConfig`."""

from __future__ import annotations

import dataclasses
import functools

import jax

from cd4lm_jax.decoding import cache, stop


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What a decode compiles for; everything else is traced.

    Attributes:
        gen_length: generated positions a row.
        block_length: positions that are decoded together; divides `gen_length`.
        eos_token_ids: tokens that the EOS gate holds back.
        ends: what a row ends at, once it and all before it are committed; None fills every row.
        suppressed: tokens that are never proposed, the mask token apart.
        guided: classifier-free guidance, one more model input a pass.
        sampled: draw tokens at `Limits.temperature` instead of taking the best.
        truncated: draw among `Limits.top_k` and `Limits.top_p` only.
        sampled_confidence: a token's confidence is its probability in what is drawn from.
        cache: see `cd4lm_jax.decoding.cache`.
        refresh_rows: rows that are computed whole at once where a cache is kept; a multiple of
            the devices that share the batch.
        block_causal: a position attends the prompt, earlier blocks and its own block.
        propose_mask: see `DecodeConfig`.
    """

    gen_length: int
    block_length: int
    eos_token_ids: tuple[int, ...]
    ends: stop.Ends | None
    suppressed: tuple[int, ...] = ()
    guided: bool = False
    sampled: bool = False
    truncated: bool = False
    sampled_confidence: bool = False
    cache: cache.Mode = "none"
    refresh_rows: int = 1
    block_causal: bool = False
    propose_mask: bool = False

    @property
    def window_length(self) -> int:
        """Positions that a pass predicts: the block, or all in which a mask may have been left."""
        return self.gen_length if self.propose_mask else self.block_length

    @property
    def num_blocks(self) -> int:
        """Blocks of the generation."""
        return self.gen_length // self.block_length

    @property
    def suffixes(self) -> tuple[int, ...]:
        """See `cd4lm_jax.decoding.cache.predict`."""
        # Under block-causal attention nothing that follows a block bears on it.
        if self.cache != "prefix" or self.block_causal:
            return ()
        return cache.suffix_lengths(self.num_blocks, self.block_length)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "eos_gate_ratio",
        "max_steps_per_block",
        "cfg_scale",
        "temperature",
        "top_k",
        "top_p",
        "refresh_interval",
    ],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Traced settings of the loop; each as in `DecodeConfig`."""

    eos_gate_ratio: float = 0.0
    max_steps_per_block: int = 0
    cfg_scale: float = 0.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    refresh_interval: int = 0
