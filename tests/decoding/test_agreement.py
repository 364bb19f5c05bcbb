"""How near one decode is to another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cd4lm_jax.decoding.agreement import edit_distance, similarity

TOKENS = st.lists(st.integers(0, 3), max_size=12)


def plain(first: list[int], second: list[int]) -> int:
    """The textbook's recursion as a table."""
    table = [[i + j for j in range(len(second) + 1)] for i in range(len(first) + 1)]
    for i, a in enumerate(first, 1):
        for j, b in enumerate(second, 1):
            replaced = table[i - 1][j - 1] + (a != b)
            table[i][j] = min(replaced, table[i - 1][j] + 1, table[i][j - 1] + 1)
    return table[-1][-1]


@given(TOKENS, TOKENS)
def test_edit_distance_is_levenshteins(first: list[int], second: list[int]) -> None:
    assert edit_distance(first, second) == plain(first, second)
    assert 0 <= similarity(first, second) <= 1
    assert (similarity(first, second) == 1) == (first == second)
