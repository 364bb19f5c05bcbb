"""Decoding one row, pass by pass, in plain Python: what the compiled loop must equal.

Written for reading. No batch, no padding, no shapes: a list of tokens, the set of positions that
are still masked, and a function that gives logits.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.decoding.rule import CommitRule
from cd4lm_jax.decoding.rules import (
    ConfidenceAdaptive,
    EntropyBounded,
    Factor,
    FixedStep,
    Margin,
    NegativeEntropy,
)
from cd4lm_jax.models.config import ModelConfig

Logits = Callable[[list[int]], np.ndarray]
"""`tokens` to `[len(tokens), vocab]`."""


@dataclasses.dataclass
class Row:
    """A decoded row; G generated positions, as in Trajectory."""

    tokens: list[int]
    committed_at: list[int]
    confidence: list[float]
    reason: list[Reason]
    nfe: int = 0


@dataclasses.dataclass(frozen=True)
class Guess:
    """What a pass proposes for one position."""

    token: int
    confidence: float
    neg_entropy: float
    margin: float

    @classmethod
    def of(cls, logits: np.ndarray, never: set[int]) -> Guess:
        scores = {token: float(x) for token, x in enumerate(logits) if token not in never}
        best = max(scores, key=lambda token: scores[token])
        weights = [math.exp(x - scores[best]) for x in scores.values()]
        shares = [weight / sum(weights) for weight in weights]
        neg_entropy = sum(p * math.log(p) for p in shares if p > 0)
        first, second = sorted(shares)[:-3:-1]
        return cls(best, 1 / sum(weights), neg_entropy, first - second)


def decode(
    logits: Logits,
    prompt: list[int],
    rule: CommitRule,
    config: ModelConfig,
    options: DecodeConfig,
    given: Sequence[int | None] = (),
) -> Row:
    """Decodes one prompt."""
    length, size = options.gen_length, options.block_length
    row = Row([config.mask_id] * length, [0] * length, [0.0] * length, [Reason.TAIL] * length)
    for position, token in enumerate(given):
        if token is not None:
            row.tokens[position], row.reason[position] = token, Reason.GIVEN
    masked = {position for position in range(length) if row.reason[position] is Reason.TAIL}
    for start in range(0, length, size):
        step = 0  # passes spent in this block
        while left := [position for position in range(start, start + size) if position in masked]:
            scores = logits(prompt + row.tokens)[len(prompt) :]
            never = {config.mask_id, *options.suppress}
            guesses = {position: Guess.of(scores[position], never) for position in left}
            row.nfe += 1

            gate_is_shut = length - len(masked) < options.eos_gate_ratio * length
            held_back = config.end_ids if options.eos_token_ids is None else options.eos_token_ids
            free = [
                position
                for position in left
                if not (gate_is_shut and guesses[position].token in held_back)
            ]
            last_pass = row.nfe == options.max_passes
            limit = options.max_steps_per_block
            forced = last_pass or (limit > 0 and step >= limit)
            wanted = _count(rule, [guesses[p] for p in free], step, options)
            # The free ones by score, then those the gate holds back; ties from the left.
            order = sorted(free, key=lambda p: (-_score(rule, guesses[p]), p))
            order += [position for position in left if position not in free]
            for rank, position in enumerate(order[: size if forced else max(1, wanted)]):
                guess = guesses[position]
                row.tokens[position] = guess.token
                row.confidence[position] = guess.confidence
                row.committed_at[position] = row.nfe
                if rank < wanted and position in free and _qualifies(rule, guess):
                    row.reason[position] = Reason.RULE
                else:
                    row.reason[position] = Reason.LIMIT if forced else Reason.MINIMUM
                masked.remove(position)
            step += 1
            if last_pass or _ended(row, masked, config, options):
                for position in masked:
                    row.tokens[position] = config.eos_id
                return row
    return row


def _ended(row: Row, masked: set[int], config: ModelConfig, options: DecodeConfig) -> bool:
    """Whether an end lies where all is known up to its last token, with nothing given after it."""
    known = row.tokens[: min(masked, default=len(row.tokens))]
    fixed = [position for position, reason in enumerate(row.reason) if reason is Reason.GIVEN]
    ends = [(token,) for token in config.end_ids] if options.stop_at_eos else []
    return any(
        tuple(known[at : at + len(end)]) == end
        for end in [*ends, *options.stop_sequences]
        for at in range(max(fixed, default=-1) + 1, len(known))
    )


def shares(size: int, passes: int, two_pass_share: float = 0.5) -> list[int]:
    """How many of a block's `size` positions each fixed-step pass commits."""
    if passes == 2 and two_pass_share != 0.5:
        first = math.floor(two_pass_share * size + 1e-6)
        return [first, size - first]
    return [size // passes + (number < size % passes) for number in range(passes)]


def _score(rule: CommitRule, guess: Guess) -> float:
    if isinstance(rule, Margin):
        return guess.margin
    by_entropy = isinstance(rule, NegativeEntropy | EntropyBounded)
    return guess.neg_entropy if by_entropy else guess.confidence


def _qualifies(rule: CommitRule, guess: Guess) -> bool:
    """Whether it meets the rule's criterion, so that it is not committed to keep a minimum."""
    if isinstance(rule, ConfidenceAdaptive | NegativeEntropy | Margin):
        return _score(rule, guess) >= rule.threshold
    return True


def _count(rule: CommitRule, free: list[Guess], step: int, options: DecodeConfig) -> int:
    size = options.block_length
    if isinstance(rule, FixedStep):
        passes = rule.steps * size // options.gen_length if rule.steps else size
        plan = shares(size, passes, rule.two_pass_share)
        return plan[step] if step < len(plan) else size
    if isinstance(rule, Factor):
        falling = sorted((guess.confidence for guess in free), reverse=True)
        return sum((n + 1) * (1 - c) < rule.factor for n, c in enumerate(falling, start=1))
    if isinstance(rule, EntropyBounded):
        spent = itertools.accumulate(sorted(-guess.neg_entropy for guess in free), initial=0.0)
        return min(sum(entropy <= rule.bound for entropy in spent), len(free))
    assert isinstance(rule, ConfidenceAdaptive | NegativeEntropy | Margin)
    qualify = sum(_score(rule, guess) >= rule.threshold for guess in free)
    return min(max(qualify, rule.min_tokens), rule.max_tokens or size)
