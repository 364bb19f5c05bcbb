from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.decoding import stop

END = (9, 8)


@pytest.mark.parametrize(
    ("tokens", "masked", "ended"),
    [
        ([1, 2, 3, 4], [0, 0, 0, 0], False),
        ([1, 9, 3, 4], [0, 0, 0, 0], True),
        ([1, 8, 0, 0], [0, 0, 1, 1], True),
        ([9, 0, 0, 0], [0, 1, 1, 1], True),
        ([0, 9, 3, 4], [1, 0, 0, 0], False),  # something before the end is not yet known
        ([1, 9, 0, 9], [0, 1, 1, 0], False),  # a masked position holds no end, whatever is in it
        ([1, 2, 3, 9], [0, 0, 0, 0], True),
        ([0, 0, 0, 0], [1, 1, 1, 1], False),
    ],
)
def test_a_row_ends_with_a_known_end_after_known_tokens(
    tokens: list[int], masked: list[int], ended: bool
) -> None:
    given = jnp.zeros((1, 4), bool)
    _, certain = stop.Ends(tokens=END).found(jnp.array([tokens]), jnp.array([masked], bool), given)
    assert certain.any(axis=1).tolist() == [ended]


def test_every_row_for_itself() -> None:
    tokens = jnp.array([[1, 9, 2], [1, 2, 3], [8, 1, 9]])
    nothing, ends = jnp.zeros((3, 3), bool), stop.Ends(tokens=END)
    assert ends.found(tokens, nothing, nothing)[1].any(axis=1).tolist() == [True, False, True]
    assert stop.answer_length(tokens, nothing, ends).tolist() == [1, 3, 0]


def test_answers_are_counted_up_to_the_first_end() -> None:
    tokens = jnp.array([[5, 5, 8, 5, 9], [9, 9, 9, 9, 9], [5, 5, 5, 5, 5], [5, 5, 5, 5, 9]])
    nothing = jnp.zeros(tokens.shape, bool)
    assert stop.answer_length(tokens, nothing, stop.Ends(tokens=END)).tolist() == [2, 0, 5, 4]
    assert stop.answer_length(tokens, nothing, stop.Ends(tokens=())).tolist() == [5, 5, 5, 5]
    # Nothing before a given token is an end.
    given = nothing.at[:, 2].set(True)
    assert stop.answer_length(tokens, given, stop.Ends(tokens=END)).tolist() == [4, 3, 5, 4]


@pytest.mark.parametrize(
    ("tokens", "masked", "length", "ended"),
    [
        ([1, 2, 3, 4, 5], [0, 0, 0, 0, 0], 1, True),
        ([1, 2, 3, 4, 5], [0, 0, 1, 0, 0], 1, False),  # its last token is not yet known
        ([1, 2, 3, 4, 5], [1, 0, 0, 0, 0], 1, False),  # something before it is not
        ([1, 2, 4, 2, 3], [0, 0, 0, 0, 0], 3, True),
        ([1, 2, 4, 4, 2], [0, 0, 0, 0, 0], 5, False),  # cut off by the end of the canvas
        ([1, 2, 2, 3, 5], [0, 0, 0, 0, 1], 2, True),
        ([9, 2, 3, 4, 5], [0, 1, 1, 1, 1], 0, True),  # whichever comes first
    ],
)
def test_a_row_ends_at_a_stop_sequence(
    tokens: list[int], masked: list[int], length: int, ended: bool
) -> None:
    ends = stop.Ends(tokens=END, sequences=((2, 3), (7, 7, 7, 7, 7, 7)))
    generated, nothing = jnp.array([tokens]), jnp.zeros((1, 5), bool)
    _, certain = ends.found(generated, jnp.array([masked], bool), nothing)
    assert certain.any(axis=1).tolist() == [ended]
    assert stop.answer_length(generated, nothing, ends).tolist() == [length]


def test_a_stop_sequence_has_tokens() -> None:
    with pytest.raises(ValueError, match="a stop sequence is empty; give at least one token"):
        stop.Ends(tokens=END, sequences=((1,), ()))


def test_is_any_of() -> None:
    tokens = jnp.array([[9, 1], [8, 7]])
    np.testing.assert_array_equal(stop.is_any_of(tokens, END), [[True, False], [True, False]])
    assert not stop.is_any_of(tokens, ()).any()
