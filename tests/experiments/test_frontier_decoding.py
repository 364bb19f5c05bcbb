"""What the benchmark of several blocks chooses and says, of runs whose numbers are known."""

from __future__ import annotations

import numpy as np
import pytest

from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.evaluation.runs.run import Run
from experiments.benchmarks import frontier_decoding
from experiments.benchmarks.frontier_decoding import MODES, VARIANTS, Decoded, Setting

PROBLEMS, GEN = 200, 4


def run(setting: Setting, accuracy: float, passes: int) -> Run:
    """Of two tokens an answer, so many passes each."""
    shape = (PROBLEMS, GEN)
    return Run(
        name="",
        model=setting.model,
        config=setting.decode,
        trajectory=Trajectory(
            tokens=np.ones(shape, np.int32),
            committed_at=np.ones(shape, np.int32),
            confidence=np.ones(shape, np.float32),
            reason=np.ones(shape, np.int32),
            nfe=np.full(PROBLEMS, passes),
            length=np.full(PROBLEMS, 2),
        ),
        seconds=None,
        outputs=[""] * PROBLEMS,
        correct=np.arange(PROBLEMS) < round(accuracy * PROBLEMS),
    )


def decoded(*of: tuple[str, str, float, float, int]) -> Decoded:
    settings = {Setting(m, mode, t): (accuracy, passes) for m, mode, t, accuracy, passes in of}
    return {setting: [run(setting, *known)] for setting, known in settings.items()}


VALIDATION = decoded(
    ("a", "one", 0.5, 0.97, 2),
    ("a", "one", 0.9, 1.0, 4),
    ("a", "two", 0.5, 0.9, 1),
    ("a", "two", 0.9, 0.99, 2),
    ("b", "one", 0.5, 0.995, 3),
    ("b", "two", 0.5, 0.97, 1),
)


def test_every_setting_is_a_decode_of_its_own() -> None:
    labels = {
        Setting("a", mode, 0.5, variant).decode.label
        for mode in MODES
        for variant in ("", *VARIANTS)
    }
    assert len(labels) == len(MODES) * (1 + len(VARIANTS))
    one, two = (Setting("a", mode, 0.5) for mode in ("one", "two"))
    assert not one.several
    assert two.several
    # Both blocks may be committed in the first pass.
    assert two.decode.rule.max_tokens == two.decode.gen_length  # type: ignore[attr-defined]


def test_the_fewest_passes_at_the_accuracy_are_chosen_on_validation() -> None:
    chosen = frontier_decoding.chosen
    assert chosen(VALIDATION, "a", several=False) == Setting("a", "one", 0.9)
    assert chosen(VALIDATION, "a", several=True) == Setting("a", "two", 0.9)
    assert chosen(VALIDATION, "b", several=True) is None
    assert chosen(VALIDATION, several=False) == Setting("b", "one", 0.5)


def test_passes_on_test_are_those_of_what_validation_chose() -> None:
    # On test b would need fewer passes, but validation chose a with two blocks, and b with one.
    test = decoded(
        ("a", "one", 0.5, 1.0, 2),
        ("a", "two", 0.5, 0.98, 1),
        ("a", "two", 0.9, 1.0, 3),
        ("b", "one", 0.5, 0.995, 4),
        ("b", "two", 0.5, 1.0, 1),
    )
    found = frontier_decoding.passes_metrics(VALIDATION, test)
    assert found["passes_at_99"] == pytest.approx(2.0)
    assert found["passes_at_99_one_block"] == 4.0
    assert found["passes_at_98"] == 1.0
    # What misses the accuracy on test has no number.
    missed = test | decoded(("a", "two", 0.9, 0.985, 3))
    found = frontier_decoding.passes_metrics(VALIDATION, missed)
    assert "passes_at_99" not in found
    assert found["passes_at_98"] == 1.0


def test_seeds_are_averaged() -> None:
    setting = Setting("a", "two", 0.5)
    seeds = [run(setting, 0.98, 1), run(setting, 1.0, 2)]
    said = frontier_decoding.entry(setting, seeds)
    assert (said["accuracy"], said["passes"], said["tpf"]) == (0.99, 1.5, 1.5)
    assert said["accuracy_by_seed"] == [0.98, 1.0]
    # The slowest point's tokens a pass times per cent, where it is the only one.
    assert frontier_decoding.aup_metrics({setting: seeds}) == {"aup_a_two": pytest.approx(148.5)}


def test_the_gain_counts_tokens_and_the_range_of_the_turns() -> None:
    one = {"tps": 100.0, "speedup": 1.0}
    two = {"tps": 132.0, "speedup": 1.2, "speedup_interval": [1.1, 1.3]}
    gains = frontier_decoding.gain_metrics(one, two)
    assert gains["multi_block_tps_gain"] == pytest.approx(1.32)
    assert gains["multi_block_tps_gain_low"] == pytest.approx(1.21)
    assert gains["multi_block_tps_gain_high"] == pytest.approx(1.43)
