"""Inputs of a decode that once gave a wrong result without a word."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cd4lm_jax as cd
from cd4lm_jax.decoding import batching, loop, sampling
from cd4lm_jax.decoding.rule import Proposal
from tests.tiny import TINY_TALKER, model_of, parameters, tiny_model

pytestmark = pytest.mark.slow

CONFIG = cd.DecodeConfig(gen_length=8, block_length=4, stop_at_eos=False, batch_size=2)
MODEL = tiny_model(TINY_TALKER, seed=1)


def test_one_question_is_one_prompt_not_its_letters() -> None:
    model = cd.LanguageModel(MODEL, None)
    with pytest.raises(ValueError, match="the model's folder has no tokenizer"):
        cd.decode(model, "abc", CONFIG)  # letters would have been three prompts of text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": cd.FixedStep(steps=3)}, r"steps=3 cannot be shared .*, such as 2 or 4"),
        ({"rule": cd.FixedStep(steps=10)}, r"steps=10 cannot be shared .* up to 8, such as 8"),
        ({"rule": cd.RandomStep(steps=1)}, r"steps=1 cannot be shared .*, such as 2"),
        ({"rule": cd.DreamSchedule(steps=5)}, r"steps=5 cannot be shared .*, such as 4 or 6"),
        ({"temperature": float("inf")}, r"temperature=inf; give 0"),
    ],
)
def test_what_does_not_fit_the_lengths_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize("steps", [0, 2, 4, 6, 8])
@pytest.mark.parametrize("rule", [cd.FixedStep, cd.RandomStep])
def test_a_fixed_number_of_passes_is_that_number(rule: type[Any], steps: int) -> None:
    config = dataclasses.replace(CONFIG, rule=rule(steps=steps))
    found = batching.decode(MODEL, [[3, 4], [5]], config).trajectory
    assert found.nfe.tolist() == [steps or 8] * 2


def test_lists_are_taken_for_tuples() -> None:
    lists: Any = {"suppress": [7], "stop_sequences": [[5, 6]], "eos_token_ids": [1]}
    tuples: Any = {"suppress": (7,), "stop_sequences": ((5, 6),), "eos_token_ids": (1,)}
    assert cd.DecodeConfig(**lists) == cd.DecodeConfig(**tuples)
    assert hash(cd.DecodeConfig(**lists).shape(TINY_TALKER))


@pytest.mark.parametrize(
    "changes", [{"eos_token_ids": (99,)}, {"suppress": (99,)}, {"stop_sequences": ((1, 99),)}]
)
def test_ids_beyond_the_vocabulary_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has an id outside the model's vocabulary of 12"):
        dataclasses.replace(CONFIG, **changes).shape(TINY_TALKER)


def test_suppressing_every_token_is_refused() -> None:
    every = tuple(range(TINY_TALKER.vocab_size))
    with pytest.raises(ValueError, match="suppress holds all 12 tokens"):
        batching.decode(MODEL, [[1]], dataclasses.replace(CONFIG, suppress=every))


@pytest.mark.parametrize("stream", [False, True])
def test_output_that_is_no_number_names_prompt_and_pass(stream: bool) -> None:
    leaves = parameters(MODEL)
    leaves["norm"] = np.full_like(leaves["norm"], np.nan)
    lost = model_of(TINY_TALKER, leaves)
    with pytest.raises(ValueError, match="prompt 0: the model's output in pass 1 is no number"):
        if stream:
            list(batching.decode_stream(lost, [[1], [2]], CONFIG))
        else:
            batching.decode(lost, [[1], [2]], CONFIG)


@cd.rule
@dataclasses.dataclass(frozen=True, kw_only=True)
class WrongShape:
    """Scores a row instead of its positions, or counts positions instead of rows."""

    which: str = "score"

    def score(self, proposal: Proposal) -> jax.Array:
        return proposal.confidence[:, :1] if self.which == "score" else proposal.confidence

    def count(self, proposal: Proposal) -> jax.Array:
        one = jnp.ones_like(proposal.step)
        return one if self.which == "score" else one[:, None]


@pytest.mark.parametrize("which", ["score", "count"])
def test_a_rule_of_the_wrong_shape_is_named(which: str) -> None:
    config = dataclasses.replace(CONFIG, rule=WrongShape(which=which))
    with pytest.raises(ValueError, match=rf"WrongShape.{which} returns shape \(2, 1\), expected "):
        batching.decode(MODEL, [[1], [2]], config)


def test_dreams_confidence_is_of_what_is_drawn_from() -> None:
    """At a low temperature the drawn distribution is sharper, so its confidence is higher."""
    drawn = dataclasses.replace(CONFIG, temperature=0.2, top_p=0.95, rule=cd.FixedStep())
    found = {
        kind: batching.decode(MODEL, [[3, 4], [5]], dataclasses.replace(drawn, confidence=kind))
        for kind in ("plain", "sampled")
    }
    first = {kind: decode.trajectory.confidence[:, 0] for kind, decode in found.items()}
    assert (first["sampled"] > first["plain"]).all()
    dream = dataclasses.replace(TINY_TALKER, confidence="sampled")
    assert drawn.shape(dream).sampled_confidence
    assert not drawn.shape(TINY_TALKER).sampled_confidence
    assert not dataclasses.replace(drawn, confidence="plain").shape(dream).sampled_confidence


def test_sampled_confidence_is_the_probability_after_temperature_and_top_p() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 3, 10)).astype(np.float32)
    kept = sampling.truncate(jnp.asarray(logits), 0.5, 0, 0.8)
    guess = sampling.propose(kept / 0.5, kept)
    for row, token, confidence in zip(logits[0], guess.token[0], guess.confidence[0], strict=True):
        shares = np.exp(row / 0.5) / np.exp(row / 0.5).sum()
        order = np.argsort(-shares)
        keep = order[: np.searchsorted(np.cumsum(shares[order]), 0.8) + 1]
        assert int(token) == order[0]
        assert float(confidence) == pytest.approx(shares[order[0]] / shares[keep].sum(), rel=1e-5)


def test_a_process_keeps_a_bounded_number_of_compiled_loops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "MAX_PROGRAMS", 2)
    monkeypatch.setattr(batching, "_programs", set())
    sizes = []
    for gen_length in (4, 8, 12, 16, 4):
        config = dataclasses.replace(CONFIG, gen_length=gen_length)
        first = batching.decode(MODEL, [[3, 4]], config).trajectory
        sizes.append(loop.run._cache_size())  # type: ignore[attr-defined]
        again = batching.decode(MODEL, [[3, 4]], config).trajectory
        np.testing.assert_array_equal(first.tokens, again.tokens)
    assert max(sizes[2:]) <= 2
