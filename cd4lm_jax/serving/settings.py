"""What an operator decides: the decode by default, what requests may change, limits."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from cd4lm_jax.decoding import rule
from cd4lm_jax.decoding.config import DecodeConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """How a model is served.

    Attributes:
        host: address to listen at; the default takes requests of this machine only.
        port: port to listen at; 0 for a free one.
        model_name: what clients call the model; None for the name of its folder.
        rules: commit rules that requests may name besides the server's own.
        caches: caches that requests may name besides the server's own.
        block_lengths: block lengths that requests may ask for besides the server's own.
        gen_lengths: generation lengths that are compiled for besides the server's own; a request
            gets the shortest that holds its `max_tokens`.
        queue: rows that may wait; more get status 429.
        segment_passes: passes after which rows may enter and leave, and streams are sent events.
        timeout: seconds that a request may take, waiting included; then it gets status 504.
        drain_timeout: seconds that requests in flight have after SIGTERM.
        max_body_bytes: of a request.
        max_choices: rows of one request.
        api_key_file: file of keys, one a line, of which a request must bring one.
        warmup: compile for the server's own settings before the first request; without it a
            program is compiled when a request first needs it.

    Raises:
        ValueError: a number out of its range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    model_name: str | None = None
    rules: tuple[rule.Rule, ...] = ()
    caches: tuple[Literal["none", "prefix", "dual"], ...] = ()
    block_lengths: tuple[int, ...] = ()
    gen_lengths: tuple[int, ...] = ()
    queue: int = 128
    segment_passes: int = 1
    timeout: float = 300.0
    drain_timeout: float = 60.0
    max_body_bytes: int = 1 << 20
    max_choices: int = 16
    api_key_file: str | None = None
    warmup: bool = False

    def __post_init__(self) -> None:
        for name in ("queue", "segment_passes", "max_body_bytes", "max_choices"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; give 1 or more")
        for name in ("timeout", "drain_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}; give seconds above 0")
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"port={self.port}; give one from 0 to 65535")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offer:
    """What requests may ask for: each is a lane that the operator has enabled.

    Attributes:
        base: the decode of a request that says nothing.
        rules: by the name that requests use.
        caches, block_lengths, gen_lengths: in rising order, the base's among them.
    """

    base: DecodeConfig
    rules: dict[str, Any]
    caches: tuple[str, ...]
    block_lengths: tuple[int, ...]
    gen_lengths: tuple[int, ...]

    @classmethod
    def of(cls, base: DecodeConfig, config: ServeConfig, max_length: int) -> Offer:
        """What a server offers.

        Raises:
            ValueError: lengths that do not go together, or a decode that cannot be served.
        """
        if base.propose_mask:
            raise ValueError(
                "propose_mask reproduces published code and cannot be served; leave it out"
            )
        if base.editing_threshold:
            raise ValueError(
                "editing_threshold replaces tokens that a stream has sent; a server cannot take "
                "them back, leave it out"
            )
        if base.stop_sequences:
            raise ValueError("stop_sequences are given by requests, as stop; leave them out")
        gens = tuple(sorted({base.gen_length, *config.gen_lengths}))
        blocks = tuple(sorted({base.block_length, *config.block_lengths}))
        for gen in gens:
            if not 0 < gen < max_length:
                raise ValueError(
                    f"gen_length={gen} leaves no room for a prompt in the model's {max_length} "
                    "positions; give less"
                )
            for block in blocks:
                if block < 1 or gen % block:
                    raise ValueError(
                        f"block_length={block} does not divide gen_length={gen}; requests may "
                        "combine them, so give lengths that all do"
                    )
        rules = {_name(one): one for one in (*config.rules, base.rule)}
        return cls(
            base=base,
            rules=rules,
            caches=tuple(sorted({base.cache, *config.caches})),
            block_lengths=blocks,
            gen_lengths=gens,
        )


def _name(one: Any) -> str:
    """What requests call a rule: without the file that it is from."""
    return rule.RULES.name(type(one)).rpartition(":")[2]
