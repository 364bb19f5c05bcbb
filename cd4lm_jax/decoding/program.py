"""What a decode is compiled for, and what is traced; both follow from a `DecodeConfig`."""

from __future__ import annotations

import dataclasses
import functools

import jax

from cd4lm_jax.decoding import cache, stop
from cd4lm_jax.decoding.cache import Dtype as CacheDtype
from cd4lm_jax.models.config import BlockOrigin


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What a decode compiles for; everything else is traced.

    Attributes:
        gen_length: generated positions a row at most; with blocks of the sequence, one short of a
            block more than what was asked for: so far may its last block reach.
        block_length: positions that are decoded together.
        blocks: what blocks are counted from. `generation`: they divide `gen_length`.
        lookahead: most blocks that are open at once.
        editing: committed tokens may be replaced while their block is open.
        eos_token_ids: tokens that the EOS gate holds back.
        ends: what a row ends at, once it and all before it are committed; None fills every row.
        suppressed: tokens that are never proposed, the mask token apart.
        guided: classifier-free guidance, one more model input a pass.
        sampled: draw tokens at `Limits.temperature` instead of taking the best.
        truncated: draw among `Limits.top_k` and `Limits.top_p` only.
        sampled_confidence: a token's confidence is its probability in what is drawn from.
        cache: see `cd4lm_jax.decoding.cache`.
        cache_dtype: likewise.
        refresh_rows: rows that are computed whole at once where a cache is kept; a multiple of
            the devices that share the batch.
        block_causal: a position attends the prompt, earlier blocks and its own block.
        propose_mask: see `DecodeConfig`.
    """

    gen_length: int
    block_length: int
    blocks: BlockOrigin = "generation"
    lookahead: int = 1
    editing: bool = False
    eos_token_ids: tuple[int, ...]
    ends: stop.Ends | None
    suppressed: tuple[int, ...] = ()
    guided: bool = False
    sampled: bool = False
    truncated: bool = False
    sampled_confidence: bool = False
    cache: cache.Mode = "none"
    cache_dtype: CacheDtype = "model"
    refresh_rows: int = 1
    block_causal: bool = False
    propose_mask: bool = False

    @property
    def window_length(self) -> int:
        """Positions that a pass predicts: open blocks, or all that a mask may be left in."""
        anywhere = self.propose_mask and self.lookahead == 1 and self.blocks == "generation"
        return self.gen_length if anywhere else self.lookahead * self.block_length

    @property
    def lead(self) -> int:
        """Positions of the prompt that the first block may begin with, at most."""
        return self.block_length - 1 if self.blocks == "sequence" else 0

    @property
    def num_blocks(self) -> int:
        """Blocks of the generation at most."""
        return -(-self.gen_length // self.block_length)

    @property
    def plan(self) -> tuple[int, int]:
        """What a rule plans for: positions, and how many times so many are in the generation.

        A block; with several blocks at once the generation.
        """
        asked = self.gen_length - self.lead
        if self.lookahead > 1:
            return asked, 1
        return self.block_length, max(asked // self.block_length, 1)

    @property
    def exact(self) -> bool:
        """Whether keys and values of a finished block are kept, and never change."""
        return self.cache == "prefix" and self.block_causal

    @property
    def suffixes(self) -> tuple[int, ...]:
        """See `cd4lm_jax.decoding.cache.predict`."""
        # Under block-causal attention nothing that follows a block bears on it.
        if self.cache != "prefix" or self.block_causal:
            return ()
        return cache.suffix_lengths(self.num_blocks, self.block_length, self.lookahead)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "eos_gate_ratio",
        "max_steps_per_block",
        "open_at",
        "editing_threshold",
        "max_post_steps",
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
    open_at: float = 0.5
    editing_threshold: float = 0.0
    max_post_steps: int = 16
    cfg_scale: float = 0.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    refresh_interval: int = 0
