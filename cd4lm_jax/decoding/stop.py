"""When a row is finished, and what follows its end."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ends:
    """What ends an answer.

    Attributes:
        tokens: EOS and EOT.
        sequences: of tokens, each of which ends it too.
    """

    tokens: tuple[int, ...]
    sequences: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not all(self.sequences):
            raise ValueError("a stop sequence is empty; give at least one token in each")

    def found(
        self, generated: jax.Array, masked: jax.Array, given: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Where answers end, and whether that is certain.

        Args:
            generated: `[batch, gen]` tokens of the generation region.
            masked: `[batch, gen]` bool, positions not yet committed.
            given: `[batch, gen]` bool, fixed from the start; nothing before one is an end.

        Returns:
            `[batch, gen]` bool, positions at which an end begins; and `[batch, gen]` bool,
            those of them that are committed, as is everything before them.
        """
        length = generated.shape[1]
        known = jnp.cumsum(masked, axis=1) == 0
        after_given = jnp.flip(jnp.cumsum(jnp.flip(given, axis=1), axis=1), axis=1) == 0
        begins = is_any_of(generated, self.tokens)
        certain = begins & known
        for sequence in self.sequences:
            size = len(sequence)
            if size > length:
                continue
            padded = jnp.pad(generated, ((0, 0), (0, size - 1)), constant_values=-1)
            matches = [padded[:, at : at + length] == token for at, token in enumerate(sequence)]
            match = jnp.stack(matches).all(axis=0)
            begins |= match
            # Known up to its last token, hence before and within it.
            certain |= match & jnp.pad(known[:, size - 1 :], ((0, 0), (0, size - 1)))
        return begins & after_given, certain & after_given


def is_any_of(tokens: jax.Array, ids: tuple[int, ...]) -> jax.Array:
    """Where `tokens` is one of `ids`; bool of the same shape."""
    found = jnp.zeros(tokens.shape, bool)
    for token in ids:
        found |= tokens == token
    return found


@functools.partial(jax.jit, static_argnames="ends")
def answer_length(generated: jax.Array, given: jax.Array, ends: Ends) -> jax.Array:
    """`[batch]` int32: tokens before the first end, all of them where there is none."""
    begins, _ = ends.found(generated, jnp.zeros(generated.shape, bool), given)
    return (jnp.cumsum(begins, axis=1) == 0).sum(axis=1)
