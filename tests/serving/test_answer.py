"""Text that is certain, and answers that end early: the same however the events are cut."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd4lm_jax import bundled
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.serving.answer import Answer, Limits
from cd4lm_jax.serving.engine.job import Commit

EOS = 1


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer.load(bundled.teacher())


def event(positions: list[int], tokens: list[int], passes: list[int], finished: bool) -> Commit:
    return Commit(
        position=np.array(positions, int),
        tokens=np.array(tokens, np.int32),
        committed_at=np.array(passes, np.int32),
        confidence=np.full(len(positions), 0.5, np.float32),
        reason=np.ones(len(positions), np.int32),
        nfe=max(passes, default=0),
        finished=finished,
    )


def answer_of(
    tokens: list[int], order: list[int], cuts: set[int], limits: Limits
) -> tuple[Answer, list[str]]:
    """One position a pass in some order, reported after some of the passes."""
    found = Answer(tokenizer(), DecodeConfig(gen_length=8, block_length=8), limits)
    texts = []
    start = 0
    for end in [*sorted(cuts), len(order)]:
        part = order[start:end]
        passes = list(range(start + 1, end + 1))
        found.add(event(part, [tokens[p] for p in part], passes, end == len(order)))
        texts.append(found.text)
        start = end
    return found, texts


words = [*tokenizer().encode("a b ab 3+4=7 \u00e9\u20ac\n"), EOS]


@given(
    tokens=st.lists(st.sampled_from(words), min_size=8, max_size=8),
    order=st.permutations(range(8)),
    cuts=st.sets(st.integers(1, 7)),
    stops=st.lists(st.sampled_from(["ab", "b", " b a", "3+", "7", "\u20ac"]), max_size=2),
    most=st.integers(1, 8),
)
def test_how_events_are_cut_changes_nothing(
    tokens: list[int], order: list[int], cuts: set[int], stops: list[str], most: int
) -> None:
    limits = Limits(most, tuple(stops), (EOS,))
    found, texts = answer_of(tokens, order, cuts, limits)
    whole, _ = answer_of(tokens, order, set(range(1, 8)), limits)
    assert (found.text, found.finish, found.passes, found.length) == (
        (whole.text, whole.finish, whole.passes, whole.length)
    )
    for earlier, later in itertools.pairwise(texts):
        assert later.startswith(earlier)
    assert not any(stop in found.text for stop in stops)


def one(ids: list[int], **limits: Any) -> Answer:
    most = dataclasses.replace(Limits(8, (), (EOS,)), **limits)
    return answer_of(ids, list(range(8)), set(), most)[0]


def test_the_end_token_and_what_follows_are_no_text() -> None:
    ids = tokenizer().encode("ab")
    found = one((ids + [EOS] * 8)[:8])
    assert (found.text, found.finish, found.length) == ("ab", "stop", len(ids))


def test_a_budget_that_ran_out_is_said() -> None:
    found = Answer(tokenizer(), DecodeConfig(gen_length=8, block_length=8), Limits(8, (), (EOS,)))
    ids = tokenizer().encode("3")
    found.add(event([0], ids, [1], finished=True))
    assert (found.text, found.finish, found.length) == ("3", "budget", 1)


@pytest.mark.parametrize("most", [1, 3])
def test_max_tokens_cuts(most: int) -> None:
    ids = (tokenizer().encode("3+4=7 3+4=7"))[:8]
    found = one(ids, tokens=most)
    assert (found.text, found.finish) == (tokenizer().decode(ids[:most]), "length")
    assert (found.passes, found.length) == (most, most)


def test_text_waits_for_what_a_stop_may_begin_with() -> None:
    ids = tokenizer().encode("3+4")
    found = Answer(
        tokenizer(), DecodeConfig(gen_length=8, block_length=8), Limits(8, ("+4=7",), (EOS,))
    )
    found.add(event(list(range(len(ids))), ids, list(range(1, len(ids) + 1)), finished=False))
    assert found.text == "3"


def test_nothing_before_a_given_position_is_an_end() -> None:
    ids = tokenizer().encode("3")
    found = Answer(
        tokenizer(),
        DecodeConfig(gen_length=8, block_length=8),
        Limits(8, (), (EOS,)),
        given=[None, *ids],
    )
    found.add(event([0], [EOS], [1], finished=False))
    assert found.length == 1 + len(ids)
