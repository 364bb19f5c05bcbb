"""Several open blocks, blocks of the sequence and token editing, in plain Python, for one row.

As `tests.decoding.reference`, which decodes block after block: a list of tokens, the set of masked
positions, and a function that gives logits. Positions count from the start of the sequence.
"""

from __future__ import annotations

import dataclasses

from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.decoding.rule import CommitRule
from cd4lm_jax.decoding.schedules import BlockDiffusion
from cd4lm_jax.models.config import ModelConfig
from tests.decoding import reference
from tests.decoding.reference import Guess, Logits, Row


@dataclasses.dataclass
class Edited(Row):
    """A decoded row, and what was edited in it."""

    first: dict[int, int] = dataclasses.field(default_factory=dict)
    edits: int = 0


def decode(
    logits: Logits, prompt: list[int], rule: CommitRule, model: ModelConfig, options: DecodeConfig
) -> Edited:
    """Decodes one prompt."""
    size, begin = options.block_length, 0 if model.blocks == "sequence" else len(prompt)
    end = begin + -(-(len(prompt) + options.gen_length - begin) // size) * size
    length = end - len(prompt)
    row = Edited([model.mask_id] * length, [0] * length, [0.0] * length, [Reason.TAIL] * length)
    masked = set(range(length))

    def block_of(position: int) -> int:
        return (position + len(prompt) - begin) // size

    first, last = block_of(0), block_of(length - 1)
    opened, step, settling = first + 1, 0, 0
    while True:
        block = [p for p in range(length) if block_of(p) == opened - 1]
        if opened <= first:
            opened = first + 1
        elif opened <= last and opened - first < options.lookahead:
            done = sum(p not in masked for p in block)
            opened += done >= options.open_at * len(block)
        scores = logits(prompt + row.tokens)[len(prompt) :]
        never = {model.mask_id, *options.suppress}
        there = [p for p in range(length) if first <= block_of(p) < opened]
        guesses = {p: Guess.of(scores[p], never) for p in there}
        left = [p for p in there if p in masked]
        row.nfe += 1
        busy = any(block_of(p) == first for p in left)

        wanted = _count(rule, [guesses[p] for p in left], step, row.nfe - 1, options)
        order = sorted(left, key=lambda p: (-reference._score(rule, guesses[p]), p))
        chosen = order[: max(1, wanted)]
        own = [p for p in order if block_of(p) == first]
        if own and not any(block_of(p) == first for p in chosen):
            chosen.append(own[0])
        if options.max_steps_per_block and step >= options.max_steps_per_block:
            chosen = list({*chosen, *own})
        if row.nfe == options.max_passes:
            chosen = left
        edited = []
        for p in there:
            guess = guesses[p]
            replaces = guess.token != row.tokens[p] and guess.confidence > options.editing_threshold
            if options.editing_threshold and p not in masked and replaces:
                row.first.setdefault(p, row.tokens[p])
                row.edits += 1
                row.tokens[p], row.confidence[p] = guess.token, guess.confidence
                row.reason[p] = Reason.EDITED
                edited.append(p)
        for p in chosen:
            guess = guesses[p]
            row.tokens[p], row.confidence[p] = guess.token, guess.confidence
            row.committed_at[p], row.reason[p] = row.nfe, Reason.RULE
            masked.remove(p)
        step, settling = step + 1, settling + (not busy)
        over = not any(block_of(p) == first for p in masked)
        if options.editing_threshold:
            still = busy or any(block_of(p) == first for p in edited)
            over &= not still or settling >= options.max_post_steps
        if over:
            first = min((block_of(p) for p in masked if block_of(p) > first), default=last + 1)
            step = settling = 0
        unsettled = {p for p in range(length) if options.editing_threshold and block_of(p) >= first}
        ended = reference._ended(row, masked | unsettled, model, options)
        if first > last or row.nfe == options.max_passes or ended:
            for p in masked:
                row.tokens[p] = model.eos_id
            return row


def _count(
    rule: CommitRule, left: list[Guess], step: int, passes: int, options: DecodeConfig
) -> int:
    planned = options.block_length
    if options.lookahead > 1:
        step, planned = passes, options.gen_length
        options = dataclasses.replace(options, block_length=planned)
    if not isinstance(rule, BlockDiffusion):
        return reference._count(rule, left, step, options)
    shares = reference.shares(planned, rule.denoising_steps or planned)
    # With several blocks open a plan may be over before the row is: its last share is repeated.
    share = shares[min(step, len(shares) - 1)]
    return max(share, sum(guess.confidence > rule.threshold for guess in left))
