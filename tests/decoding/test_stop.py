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
    result = stop.ended(jnp.array([tokens]), jnp.array([masked], bool), END)
    assert result.tolist() == [ended]


def test_every_row_for_itself() -> None:
    tokens = jnp.array([[1, 9, 2], [1, 2, 3], [8, 1, 9]])
    assert stop.ended(tokens, jnp.zeros((3, 3), bool), END).tolist() == [True, False, True]
    assert stop.answer_length(tokens, END).tolist() == [1, 3, 0]


def test_answers_are_counted_up_to_the_first_end() -> None:
    tokens = jnp.array([[5, 5, 8, 5, 9], [9, 9, 9, 9, 9], [5, 5, 5, 5, 5], [5, 5, 5, 5, 9]])
    assert stop.answer_length(tokens, END).tolist() == [2, 0, 5, 4]
    assert stop.answer_length(tokens, ()).tolist() == [5, 5, 5, 5]


def test_is_any_of() -> None:
    tokens = jnp.array([[9, 1], [8, 7]])
    np.testing.assert_array_equal(stop.is_any_of(tokens, END), [[True, False], [True, False]])
    assert not stop.is_any_of(tokens, ()).any()
