from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cd4lm_jax as cd
from cd4lm_jax.decoding.rule import Proposal
from tests.decoding import reference

CONFIDENCE = jnp.array([[0.99, 0.9, 0.5, 0.95], [0.1, 0.2, 0.3, 0.4]])


def proposal(
    *, eligible: Any = True, step: Any = (0, 0), num_blocks: int = 2, confidence: Any = CONFIDENCE
) -> Proposal:
    return Proposal(
        confidence=confidence,
        neg_entropy=jnp.log(confidence),
        margin=confidence / 2,
        noise=1 - confidence,
        eligible=jnp.broadcast_to(jnp.asarray(eligible), confidence.shape),
        step=jnp.asarray(step),
        block_length=confidence.shape[1],
        num_blocks=num_blocks,
    )


def counts(rule: cd.CommitRule, **given: Any) -> list[int]:
    return rule.count(proposal(**given)).tolist()


def test_confidence_counts_what_is_confident_enough_within_bounds() -> None:
    rule = cd.ConfidenceAdaptive(threshold=0.95)
    assert counts(rule) == [2, 1]  # the bound is part of what qualifies; 1 at least
    assert counts(cd.ConfidenceAdaptive(threshold=0.9)) == [3, 1]
    assert counts(cd.ConfidenceAdaptive(threshold=0.0)) == [4, 4]
    assert counts(cd.ConfidenceAdaptive(threshold=0.0, max_tokens=3)) == [3, 3]
    assert counts(cd.ConfidenceAdaptive(threshold=1.0, min_tokens=2)) == [2, 2]
    assert counts(rule, eligible=[[False, True, True, True], [True] * 4]) == [1, 1]
    np.testing.assert_array_equal(rule.score(proposal()), CONFIDENCE)


def test_entropy_counts_and_ranks_by_negative_entropy() -> None:
    rule = cd.NegativeEntropy(threshold=float(np.log(0.89)))
    assert counts(rule) == [3, 1]
    assert counts(rule, eligible=False) == [1, 1]
    assert counts(cd.NegativeEntropy(threshold=-9.0, max_tokens=2)) == [2, 2]
    assert counts(cd.NegativeEntropy(threshold=0.0, min_tokens=3)) == [3, 3]
    np.testing.assert_array_equal(rule.score(proposal()), jnp.log(CONFIDENCE))


def test_margin_counts_and_ranks_by_the_lead() -> None:
    assert counts(cd.Margin(threshold=0.45)) == [3, 1]
    assert counts(cd.Margin(threshold=0.0, max_tokens=2)) == [2, 2]
    np.testing.assert_array_equal(cd.Margin(threshold=0.4).score(proposal()), CONFIDENCE / 2)


def test_factor_asks_more_of_more_tokens() -> None:
    # (n + 1)(1 - c_n) of the first row, greatest first: 0.02, 0.15, 0.4, 2.5.
    assert counts(cd.Factor(factor=0.01)) == [0, 0]  # the decoder commits one all the same
    assert counts(cd.Factor(factor=0.1)) == [1, 0]
    assert counts(cd.Factor(factor=0.3)) == [2, 0]
    assert counts(cd.Factor(factor=0.5)) == [3, 0]
    assert counts(cd.Factor(factor=9.0)) == [4, 4]
    only = [[False, True, True, False], [True] * 4]
    assert counts(cd.Factor(factor=9.0), eligible=only) == [2, 4]
    # Against the search of the paper, written out.
    rng = np.random.default_rng(0)
    confidence = rng.random((50, 8)).astype(np.float32)
    found = cd.Factor(factor=1.5).count(proposal(confidence=jnp.asarray(confidence), step=0))
    for row, n in zip(np.sort(confidence)[:, ::-1], found.tolist(), strict=True):
        qualify = [m for m in range(1, 9) if (m + 1) * (1 - row[m - 1]) < 1.5]
        assert n == max(qualify, default=0)


def test_entropy_bound_leaves_out_the_greatest() -> None:
    # Entropies of the first row, least first: 0.010, 0.051, 0.105, 0.693.
    assert counts(cd.EntropyBounded(bound=0.0)) == [1, 1]
    assert counts(cd.EntropyBounded(bound=0.011)) == [2, 1]
    assert counts(cd.EntropyBounded(bound=0.07)) == [3, 1]
    assert counts(cd.EntropyBounded(bound=0.2)) == [4, 1]
    assert counts(cd.EntropyBounded(bound=0.2), eligible=[[True, True, False, False]] * 2) == [2, 1]
    assert counts(cd.EntropyBounded(bound=99.0), eligible=False) == [0, 0]
    certain = proposal(confidence=jnp.ones((2, 4)))
    assert cd.EntropyBounded(bound=0.0).count(certain).tolist() == [4, 4]


def test_random_order_keeps_the_shares_of_fixed_step() -> None:
    rule = cd.RandomStep(steps=4)
    assert counts(rule, step=(0, 1)) == counts(cd.FixedStep(steps=4), step=(0, 1))
    np.testing.assert_array_equal(rule.score(proposal()), 1 - CONFIDENCE)


def plan(size: int, steps: int, two_pass_share: float = 0.5) -> list[int]:
    """What FixedStep commits of a block, pass by pass."""
    # Always as many rows, so that JAX meets few shapes.
    every = proposal(confidence=jnp.zeros((70, size)), step=jnp.arange(70), num_blocks=1)
    rule = cd.FixedStep(steps=steps, two_pass_share=two_pass_share)
    return rule.count(every)[:steps].tolist()


def test_fixed_step_equals_the_published_table(golden: pathlib.Path) -> None:
    table = json.loads((golden / "tables.json").read_text())["transfer_tokens_per_step"]
    assert table["columns"] == ["masked_tokens", "steps", "tokens_to_commit"]
    assert table["rows"]
    for masked, steps, tokens in table["rows"]:
        assert plan(masked, steps, 0.4) == tokens, (masked, steps)


@pytest.mark.parametrize("size", [1, 5, 8, 32])
def test_fixed_step_shares_a_block_out(size: int) -> None:
    for steps in sorted({1, 2, 3, size // 3 + 1, size - 1 or 1, size, size + 2}):
        shares = plan(size, steps)
        assert shares == reference.shares(size, steps)
        assert sum(shares) == size


def test_fixed_step_divides_its_passes_among_the_blocks() -> None:
    assert counts(cd.FixedStep(steps=8)) == [1, 1]  # 4 passes for the 4 positions of each block
    assert counts(cd.FixedStep(steps=2)) == [4, 4]
    assert counts(cd.FixedStep(steps=1)) == [4, 4]  # fewer passes than blocks: one each
    assert counts(cd.FixedStep(steps=4), step=(0, 1)) == [2, 2]
    uneven = cd.FixedStep(steps=4, two_pass_share=0.4)
    assert counts(uneven, step=(0, 1)) == [1, 3]  # 40 % and 60 %
    assert counts(cd.FixedStep(), step=(0, 3)) == [1, 1]
    assert counts(cd.FixedStep(steps=6), step=(1, 3)) == [1, 4]  # all, once the passes are used up


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: cd.FixedStep(steps=-1),
            r"steps=-1 is not a number of passes; give .* 0",
        ),
        (lambda: cd.ConfidenceAdaptive(threshold=95), r"threshold=95 .*at least 0.0 and at most 1"),
        (lambda: cd.ConfidenceAdaptive(threshold=float("nan")), "threshold=nan is not a prob"),
        (lambda: cd.ConfidenceAdaptive(threshold=0.9, min_tokens=0), "min_tokens=0 .*at least 1"),
        (
            lambda: cd.ConfidenceAdaptive(threshold=0.9, min_tokens=3, max_tokens=2),
            "max_tokens=2 is below min_tokens=3; raise it or lower that",
        ),
        (lambda: cd.NegativeEntropy(threshold=0.3), r"threshold=0.3 .*nats; give one at most 0"),
        (lambda: cd.Margin(threshold=2), r"threshold=2 is not a difference of probabilities"),
        (lambda: cd.Factor(factor=-1), r"factor=-1 is not a factor; give one at least 0"),
        (lambda: cd.EntropyBounded(bound=-1), r"bound=-1 is not a bound in nats"),
        (lambda: cd.RandomStep(steps=-1), r"steps=-1 is not a number of passes"),
        (lambda: cd.NegativeEntropy(min_tokens=2, max_tokens=1), "max_tokens=1 is below"),
    ],
)
def test_says_what_is_wrong(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_numbers_of_a_rule_are_traced() -> None:
    traces = []

    @jax.jit
    def count(rule: cd.CommitRule, given: Proposal) -> jax.Array:
        traces.append(rule)
        return rule.count(given)

    given = proposal()._replace(num_blocks=jnp.int32(2))
    found = [count(cd.ConfidenceAdaptive(threshold=t), given)[0] for t in (0.0, 0.9, 0.99)]
    assert [int(n) for n in found] == [4, 3, 1]
    assert len(traces) == 1


def test_rules_with_fields_of_the_same_names_are_never_taken_for_each_other() -> None:
    rules = cd.ConfidenceAdaptive, cd.NegativeEntropy, cd.Margin
    same = [rule(threshold=0.0) for rule in rules]
    structures: list[Any] = [jax.tree.structure(rule) for rule in same]
    # Not as a set: their hashes differ in any case.
    assert not any(one == other for one, other in itertools.combinations(structures, 2))
    leaves = jax.tree.leaves_with_path(same[0])
    assert [jax.tree_util.keystr(path) for path, _ in leaves] == [
        ".threshold",
        ".min_tokens",
        ".max_tokens",
    ]
