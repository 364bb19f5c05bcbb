"""The one description of a decode: a commit rule and all its options, checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from cd4lm_jax.decoding import cache, rule, stop
from cd4lm_jax.decoding import schedules as schedules  # registers its rules
from cd4lm_jax.decoding.cache import Dtype as CacheDtype
from cd4lm_jax.decoding.program import Limits, Shape
from cd4lm_jax.decoding.rules import ConfidenceAdaptive, FixedStep
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.settings.choices import Changes
from cd4lm_jax.settings.config import to_plain

_UNLABELLED = ("rule", "gen_length", "block_length", "stop_at_eos", "batch_size", "seed")
"""Not in a label: the rule is its head, the others are said beside a table."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How prompts are decoded.

    Attributes:
        rule: commit rule, which says what a pass makes final; in text `NAME(FIELD=VALUE)` or
            `FILE.py:NAME(FIELD=VALUE)`.
        gen_length: generated positions.
        block_length: positions decoded together, left to right by block; divides `gen_length`, but
            for models whose blocks count from the start of the sequence (SDAR, LLaDA2).
        lookahead: most blocks that are open at once (d3LLM); 1 for one after the other.
        open_at: with more, the next block opens when this share of the last open one is committed.
        editing_threshold: a committed token is replaced while its block is open where another has
            more than this probability (LLaDA2.1); 0 for no editing.
        max_post_steps: with editing, most passes in a block after its last mask.
        stop_at_eos: end a row at its end token instead of filling the whole generation.
        stop_sequences: lists of token ids that end a row as an end token does.
        max_passes: of each row: the last one commits what is left of its block, later blocks are
            left out; 0 for no limit.
        eos_gate_ratio: hold back end tokens until this share is committed (CD4LM); 0 for no gate.
        eos_token_ids: tokens that the gate holds back; None for the model's end tokens.
        max_steps_per_block: after so many passes one more commits all that is left of a block;
            0 for no limit.
        cfg_scale: strength of classifier-free guidance (LLaDA); 0 for none.
        temperature: of the Gumbel noise that tokens are drawn with (LLaDA); 0 takes the best.
        top_k: draw among so many of the best tokens; 0 for all.
        top_p: draw among the fewest tokens that have this probability together; 1 for all.
        confidence: the distribution that confidence is taken of where tokens are drawn: `plain` at
            temperature 1 (LLaDA), `sampled` the one that is drawn from (Dream); None for the
            model's own.
        suppress: token ids that are never generated; the mask token never is.
        cache: `none` is exact; `prefix` and `dual` keep keys and values outside the active block
            (Fast-dLLM).
        cache_dtype: of the keys and values that are kept: `model` for that of the computation, or
            `int8`, a half or a quarter of it, with a scale for each head of each position.
        refresh_interval: with a cache, passes within a block after which it is made anew; 0 for
            when a block is entered only.
        refresh_rows: with a cache, rows that are computed whole at once; a multiple of the devices
            that share the batch.
        block_causal: attend the prompt, earlier blocks and a position's own block only, for models
            that were trained so; `prefix` is then exact.
        propose_mask: let the mask token be the best, as published code does: a position that
            chooses it has had its turn but stays masked, and a pass may commit nothing. What is
            masked in the end comes back as EOS.
        batch_size: prompts decoded at once.
        seed: of what is drawn.

    Raises:
        ValueError: a number out of its range, settings that need another one, or a rule that does
            not fit the lengths.
    """

    rule: rule.Rule = ConfidenceAdaptive()
    gen_length: int = 128
    block_length: int = 32
    lookahead: int = 1
    open_at: float = 0.5
    editing_threshold: float = 0.0
    max_post_steps: int = 16
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
    confidence: Literal["plain", "sampled"] | None = None
    suppress: tuple[int, ...] = ()
    cache: cache.Mode = "none"
    cache_dtype: CacheDtype = "model"
    refresh_interval: int = 0
    refresh_rows: int = 1
    block_causal: bool = False
    propose_mask: bool = False
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        self._read_lists()
        self._check_rule()
        self._check_numbers()
        self._check_together()

    @classmethod
    def for_model(cls, model: ModelConfig, **changes: Any) -> DecodeConfig:
        """The defaults for a model, with some fields changed.

        Its own block length where it has one, and a generation that it has room for: blocks in a
        third of its positions.
        """
        block = changes.get("block_length", model.block_length or cls.block_length)
        most = min(cls.gen_length, model.max_length // 3)
        length = max(most // max(block, 1), 1) * block
        return cls(**{"block_length": block, "gen_length": length, **changes})

    def fixed(self, tokens_per_pass: int = 1) -> DecodeConfig:
        """The fixed-step form: so many tokens every pass until the generation is filled, no gate.

        One token a pass is the baseline that speed-ups are counted from.

        Raises:
            ValueError: blocks cannot be shared out evenly.
        """
        if tokens_per_pass < 1 or self.block_length % tokens_per_pass:
            raise ValueError(
                f"{tokens_per_pass} tokens a pass do not divide block_length={self.block_length}; "
                "give a divisor of it"
            )
        rule = FixedStep(steps=self.gen_length // tokens_per_pass)
        return dataclasses.replace(self, rule=rule, stop_at_eos=False, eos_gate_ratio=0.0)

    @property
    def label(self) -> str:
        """The config in short: its rule and what else is no default, but lengths and the like."""
        parts = [rule.label(self.rule, self.gen_length)]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in _UNLABELLED and value != field.default:
                text = "/".join(map(str, value)) if isinstance(value, tuple) else str(value)
                parts.append(f"{field.name}={text}".replace("/", "+"))
        return " ".join(parts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that tokens follow from, the source of a rule's own file included."""
        said = {"config": to_plain(self), "source": rule.source_digest(self.rule)}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    @property
    def limits(self) -> Limits:
        """What is traced."""
        return Limits(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(Limits)}
        )

    def shape(self, model: ModelConfig) -> Shape:
        """What is compiled for.

        Raises:
            ValueError: a model without a mask token, ids outside the model's vocabulary, or
                nothing left to generate.
        """
        model.check_mask()
        ids = {
            "suppress": self.suppress,
            "stop_sequences": sum(self.stop_sequences, ()),
            "eos_token_ids": self.eos_token_ids or (),
        }
        for name, tokens in ids.items():
            if any(not 0 <= token < model.vocab_size for token in tokens):
                raise ValueError(
                    f"{name}={getattr(self, name)} has an id outside the model's vocabulary of "
                    f"{model.vocab_size}"
                )
        if len({*self.suppress, model.mask_id}) >= model.vocab_size:
            raise ValueError(
                f"suppress holds all {model.vocab_size} tokens of the vocabulary but the mask; "
                "leave out what may be generated"
            )
        ends = None
        if self.stop_at_eos or self.stop_sequences:
            tokens = model.end_ids if self.stop_at_eos else ()
            ends = stop.Ends(tokens=tokens, sequences=self.stop_sequences)
        by_sequence = model.blocks == "sequence"
        if not by_sequence:
            self._check_blocks()
            self._check_proposals()
        reach = self.gen_length + (self.block_length - 1 if by_sequence else 0)
        return Shape(
            gen_length=reach,
            block_length=self.block_length,
            blocks=model.blocks,
            lookahead=min(self.lookahead, -(-reach // self.block_length)),
            editing=self.editing_threshold > 0.0,
            eos_token_ids=model.end_ids if self.eos_token_ids is None else self.eos_token_ids,
            ends=ends,
            suppressed=self.suppress,
            guided=self.cfg_scale > 0.0,
            sampled=self.temperature > 0.0,
            truncated=bool(self.top_k) or self.top_p < 1.0,
            sampled_confidence=self.temperature > 0.0
            and (self.confidence or model.confidence) == "sampled",
            cache=self.cache,
            cache_dtype=self.cache_dtype,
            refresh_rows=self.refresh_rows,
            block_causal=self.block_causal or model.attention == "block",
            propose_mask=self.propose_mask,
        )

    def _read_lists(self) -> None:
        """Takes lists for tuples, and text for a rule."""
        sequences = tuple(map(tuple, self.stop_sequences))
        object.__setattr__(self, "stop_sequences", sequences)
        object.__setattr__(self, "suppress", tuple(self.suppress))
        if self.eos_token_ids is not None:
            object.__setattr__(self, "eos_token_ids", tuple(self.eos_token_ids))
        if isinstance(self.rule, str):
            object.__setattr__(self, "rule", rule.parse(self.rule))

    def _check_blocks(self) -> None:
        size, total = self.block_length, self.gen_length
        if size < 1 or total < 1 or total % size:
            raise ValueError(
                f"gen_length={total} is not a multiple of block_length={size}; blocks must fill "
                "the generation exactly"
            )

    def _check_proposals(self) -> None:
        if self.propose_mask and self.cache != "none":
            raise ValueError(
                f"propose_mask reproduces published code, which keeps no cache; with cache="
                f"{self.cache} leave it out"
            )

    def _check_rule(self) -> None:
        if self.block_length < 1 or self.gen_length < 1:
            self._check_blocks()
        if isinstance(self.rule, type):
            raise ValueError(f"rule={self.rule.__name__} is a class; give {self.rule.__name__}()")
        rule.RULES.name(type(self.rule))
        check = getattr(self.rule, "check", None)
        if check is not None:
            check(self.gen_length, self.block_length)

    def _check_numbers(self) -> None:
        if not 0.0 <= self.eos_gate_ratio <= 1.0:
            raise ValueError(
                f"eos_gate_ratio={self.eos_gate_ratio} is no share; give one from 0 to 1"
            )
        if not 0.0 <= self.open_at <= 1.0:
            raise ValueError(f"open_at={self.open_at} is no share; give one from 0 to 1")
        if not 0.0 <= self.editing_threshold <= 1.0:
            raise ValueError(
                f"editing_threshold={self.editing_threshold} is no probability; give one from 0 "
                "(off) to 1"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(
                f"top_p={self.top_p} is no probability; give one above 0 and up to 1 (off)"
            )
        for name in (
            "max_passes",
            "max_steps_per_block",
            "max_post_steps",
            "cfg_scale",
            "temperature",
            "top_k",
            "refresh_interval",
        ):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value}; give 0 (off) or more")
        for name in ("batch_size", "lookahead", "refresh_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; give 1 or more")
        for name, choices in (
            ("cache", ("none", "prefix", "dual")),
            ("cache_dtype", ("model", "int8")),
            ("confidence", (None, "plain", "sampled")),
        ):
            if getattr(self, name) not in choices:
                known = ", ".join(map(str, choices))
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; give {known}")

    def _check_together(self) -> None:
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
        if self.cache_dtype != "model" and self.cache == "none":
            raise ValueError(
                f"cache_dtype={self.cache_dtype} is that of a cache, and cache=none keeps none; "
                "give cache=prefix or dual"
            )


DecodeChanges = Annotated[Mapping[str, Any], Changes(DecodeConfig)]
"""The type of a setting that changes some fields of a `DecodeConfig` and keeps the others."""
