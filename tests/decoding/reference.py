"""Decoding one row, pass by pass, in plain Python: what the compiled loop must equal.

Written for reading. No batch, no padding, no shapes: a list of tokens, the set of positions that
are still masked, and a function that gives logits.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np

from cd4lm_jax.decoding.commit import (
    CommitRule,
    ConfidenceAdaptive,
    EntropyBounded,
    Factor,
    FixedStep,
    Margin,
    NegativeEntropy,
)
from cd4lm_jax.decoding.decoder import Limits, Shape
from cd4lm_jax.model.config import ModelConfig

Logits = Callable[[list[int]], np.ndarray]
"""``tokens`` to ``[len(tokens), vocab]``."""


@dataclasses.dataclass
class Row:
    """A decoded row; G generated positions, as in Trajectory."""

    tokens: list[int]
    committed_at: list[int]
    confidence: list[float]
    nfe: int = 0


@dataclasses.dataclass(frozen=True)
class Guess:
    """What a pass proposes for one position."""

    token: int
    confidence: float
    neg_entropy: float
    margin: float

    @classmethod
    def of(cls, logits: np.ndarray, mask_id: int) -> Guess:
        scores = {token: float(x) for token, x in enumerate(logits) if token != mask_id}
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
    shape: Shape,
    limits: Limits = Limits(),
) -> Row:
    """Decodes one prompt."""
    length, size = shape.gen_length, shape.block_length
    row = Row([config.mask_id] * length, [0] * length, [0.0] * length)
    masked = set(range(length))
    for start in range(0, length, size):
        step = 0  # passes spent in this block
        while left := [position for position in range(start, start + size) if position in masked]:
            scores = logits(prompt + row.tokens)[len(prompt) :]
            guesses = {position: Guess.of(scores[position], config.mask_id) for position in left}
            row.nfe += 1

            gate_is_shut = length - len(masked) < limits.eos_gate_ratio * length
            free = [
                position
                for position in left
                if not (gate_is_shut and guesses[position].token in shape.eos_token_ids)
            ]
            if limits.max_steps_per_block and step >= limits.max_steps_per_block:
                count = size
            else:
                count = max(1, _count(rule, [guesses[p] for p in free], step, shape))
            # The free ones by score, then those the gate holds back; ties from the left.
            order = sorted(free, key=lambda p: (-_score(rule, guesses[p]), p))
            order += [position for position in left if position not in free]
            for position in order[:count]:
                row.tokens[position] = guesses[position].token
                row.confidence[position] = guesses[position].confidence
                row.committed_at[position] = row.nfe
                masked.remove(position)
            step += 1

            known = row.tokens[: min(masked, default=length)]
            if shape.stop_at_eos and any(token in config.end_ids for token in known):
                for position in masked:
                    row.tokens[position] = config.eos_id
                return row
    return row


def shares(size: int, passes: int) -> list[int]:
    """How many of a block's ``size`` positions each fixed-step pass commits."""
    if passes == 2:
        return [size * 2 // 5, size - size * 2 // 5]
    return [size // passes + (number < size % passes) for number in range(passes)]


def _score(rule: CommitRule, guess: Guess) -> float:
    if isinstance(rule, Margin):
        return guess.margin
    by_entropy = isinstance(rule, NegativeEntropy | EntropyBounded)
    return guess.neg_entropy if by_entropy else guess.confidence


def _count(rule: CommitRule, free: list[Guess], step: int, shape: Shape) -> int:
    size = shape.block_length
    if isinstance(rule, FixedStep):
        plan = shares(size, max(rule.steps // shape.num_blocks, 1))
        return plan[step] if step < len(plan) else size
    if isinstance(rule, Factor):
        surest = sorted((guess.confidence for guess in free), reverse=True)
        return sum((n + 1) * (1 - c) < rule.factor for n, c in enumerate(surest, start=1))
    if isinstance(rule, EntropyBounded):
        spent = itertools.accumulate(sorted(-guess.neg_entropy for guess in free), initial=0.0)
        return min(sum(entropy <= rule.bound for entropy in spent), len(free))
    assert isinstance(rule, ConfidenceAdaptive | NegativeEntropy | Margin)
    sure = sum(_score(rule, guess) >= rule.threshold for guess in free)
    return min(max(sure, rule.min_tokens), rule.max_tokens)
