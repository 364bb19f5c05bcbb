"""The settings of a decode that people choose, checked; what they become for the compiled loop."""

from __future__ import annotations

import dataclasses
import functools

import jax

from cd4lm_jax.decoding import cache, stop
from cd4lm_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What a decode compiles for; everything else is traced.

    Attributes:
        gen_length: generated positions a row.
        block_length: positions that are decoded together; divides ``gen_length``.
        eos_token_ids: tokens that the EOS gate holds back.
        ends: what a row ends at, once it and all before it are committed; None fills every row.
        suppressed: tokens that are never proposed, the mask token apart.
        guided: classifier-free guidance, one more model input a pass.
        sampled: draw tokens at ``Limits.temperature`` instead of taking the best.
        truncated: draw among ``Limits.top_k`` and ``Limits.top_p`` only.
        cache: see :mod:`cd4lm_jax.decoding.cache`.
        refresh_rows: rows that are computed whole at once where a cache is kept; a multiple of
            the devices that share the batch.
        block_causal: a position attends the prompt, earlier blocks and its own, for models that
            were trained so.
        propose_mask: let the mask token be the best, as the published code does: a position that
            chooses it has had its turn but stays masked, and a pass may commit nothing. What is
            masked in the end comes back as EOS. For reproducing published runs: all positions of
            the generation go through the head in every pass.
    """

    gen_length: int
    block_length: int
    eos_token_ids: tuple[int, ...]
    ends: stop.Ends | None
    suppressed: tuple[int, ...] = ()
    guided: bool = False
    sampled: bool = False
    truncated: bool = False
    cache: cache.Mode = "none"
    refresh_rows: int = 1
    block_causal: bool = False
    propose_mask: bool = False

    def __post_init__(self) -> None:
        if self.block_length < 1 or self.gen_length < 1 or self.gen_length % self.block_length:
            raise ValueError(
                f"gen_length={self.gen_length} is not a multiple of block_length="
                f"{self.block_length}; blocks must fill the generation exactly"
            )
        if self.cache not in ("none", "prefix", "dual"):
            raise ValueError(f"cache={self.cache!r} is unknown; give none, prefix or dual")
        if self.propose_mask and self.cache != "none":
            raise ValueError(
                f"propose_mask reproduces published code, which keeps no cache; with cache="
                f"{self.cache} leave it out"
            )

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
        """See :func:`cd4lm_jax.decoding.cache.predict`."""
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
    """Traced settings of the loop.

    Attributes:
        eos_gate_ratio: while less than this share of the generation is committed, positions
            whose best token is an end token wait (CD4LM's EOS gate); 0 for no gate.
        max_steps_per_block: after so many passes one more commits all that is left of a block;
            0 for no limit but the block's length.
        cfg_scale: strength of classifier-free guidance (LLaDA): 0 for none.
        temperature: of the Gumbel noise that tokens are drawn with (LLaDA); confidence stays the
            drawn token's probability at temperature 1.
        top_k: draw among so many of the best tokens; 0 for all.
        top_p: draw among the fewest best tokens that have this probability together; 1 for all.
        refresh_interval: with a cache, compute a row whole every so many passes within a block;
            0 for when it enters one only.
    """

    eos_gate_ratio: float = 0.0
    max_steps_per_block: int = 0
    cfg_scale: float = 0.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    refresh_interval: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How prompts are decoded, apart from the commit rule.

    Attributes:
        gen_length: generated positions.
        block_length: positions decoded together, left to right by block; divides ``gen_length``.
        stop_at_eos: end a row at its end token instead of filling the whole generation.
        stop_sequences: lists of tokens that end a row as an end token does.
        max_passes: of each row: the last one commits what is left of its block, later blocks are
            left out; 0: no limit.
        eos_gate_ratio: hold back end tokens until this share is committed (CD4LM).
        eos_token_ids: tokens that the gate holds back; the model's end tokens if None.
        max_steps_per_block: after so many passes one more commits all that is left of a block;
            0: no limit.
        cfg_scale: classifier-free guidance (LLaDA); 0: none.
        temperature: draw tokens with Gumbel noise (LLaDA); 0: take the best.
        top_k: draw among so many of the best tokens; 0: all.
        top_p: draw among the fewest tokens that have this probability together; 1: all.
        suppress: tokens that are never generated; the mask token never is.
        cache: ``none`` is exact; ``prefix`` and ``dual`` keep keys and values outside the active
            block (Fast-dLLM), see :mod:`cd4lm_jax.decoding.cache`.
        refresh_interval: with a cache, passes within a block after which it is made anew; 0: when
            a block is entered only.
        refresh_rows: with a cache, rows that are computed whole at once; a multiple of the devices
            that share the batch.
        block_causal: attend the prompt, earlier blocks and a position's own block only, for models
            that were trained so; ``prefix`` is then exact.
        propose_mask: as the published code does, see :class:`Shape`.
        batch_size: prompts decoded at once.
        seed: of what is drawn.

    Raises:
        ValueError: a number out of its range, or settings that need another one.
    """

    gen_length: int
    block_length: int
    stop_at_eos: bool = True
    stop_sequences: tuple[tuple[int, ...], ...] = ()
    max_passes: int = 0
    eos_gate_ratio: float = 0.0
    eos_token_ids: tuple[int, ...] | None = None
    max_steps_per_block: int = 0
    cfg_scale: float = 0.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    suppress: tuple[int, ...] = ()
    cache: cache.Mode = "none"
    refresh_interval: int = 0
    refresh_rows: int = 1
    block_causal: bool = False
    propose_mask: bool = False
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eos_gate_ratio <= 1.0:
            raise ValueError(
                f"eos_gate_ratio={self.eos_gate_ratio} is no share; give one from 0 to 1"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(
                f"top_p={self.top_p} is no probability; give one above 0 and up to 1 (off)"
            )
        for name in (
            "max_passes",
            "max_steps_per_block",
            "cfg_scale",
            "temperature",
            "top_k",
            "refresh_interval",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}; give 0 (off) or more")
        if (self.top_k or self.top_p < 1) and not self.temperature:
            raise ValueError(
                f"top_k={self.top_k} and top_p={self.top_p} choose what is drawn among, and at "
                "temperature=0 nothing is drawn; give a temperature"
            )
        if self.refresh_interval and self.cache == "none":
            raise ValueError(
                f"refresh_interval={self.refresh_interval} refreshes a cache, and cache=none keeps "
                "none; give cache=prefix or dual"
            )
        for name in ("batch_size", "refresh_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; give 1 or more")

    def shape(self, config: ModelConfig) -> Shape:
        """What is compiled for.

        Raises:
            ValueError: lengths that do not fit each other, or ids outside the vocabulary.
        """
        for name, ids in (
            ("suppress", self.suppress),
            ("stop_sequences", sum(self.stop_sequences, ())),
        ):
            if any(not 0 <= token < config.vocab_size for token in ids):
                raise ValueError(
                    f"{name}={getattr(self, name)} has an id outside the model's vocabulary of "
                    f"{config.vocab_size}"
                )
        ends = None
        if self.stop_at_eos or self.stop_sequences:
            tokens = config.end_ids if self.stop_at_eos else ()
            ends = stop.Ends(tokens=tokens, sequences=self.stop_sequences)
        return Shape(
            gen_length=self.gen_length,
            block_length=self.block_length,
            eos_token_ids=config.end_ids if self.eos_token_ids is None else self.eos_token_ids,
            ends=ends,
            suppressed=self.suppress,
            guided=self.cfg_scale > 0.0,
            sampled=self.temperature > 0.0,
            truncated=bool(self.top_k) or self.top_p < 1.0,
            cache=self.cache,
            refresh_rows=self.refresh_rows,
            block_causal=self.block_causal,
            propose_mask=self.propose_mask,
        )

    @property
    def limits(self) -> Limits:
        """What is traced."""
        return Limits(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(Limits)}
        )
