from __future__ import annotations

import pathlib
from typing import Any

import pytest

pytest.importorskip("lm_eval")
import cd4lm_jax as cd
from cd4lm_jax.evaluation.harness import settings
from cd4lm_jax.evaluation.harness.settings import DEFAULT, of_model, of_request

CAD = cd.ConfidenceAdaptive
RULE = """
import dataclasses
import cd4lm_jax as cd

@cd.rule
@dataclasses.dataclass(frozen=True, kw_only=True)
class Half:
    share: float = 0.25

    def score(self, proposal): return proposal.confidence
    def count(self, proposal): return (self.share * proposal.eligible.sum(axis=1)).astype(int)
"""


def _changed(**fields: Any) -> cd.DecodeConfig:
    return cd.DecodeConfig(**{"gen_length": 256, "eos_gate_ratio": 0.3} | fields)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, _changed()),
        ({"threshold": 0.9}, _changed(rule=CAD(threshold=0.9))),
        ({"threshold": "0.9"}, _changed(rule=CAD(threshold=0.9))),
        ({"threshold": 0.9, "max_tokens": 8}, _changed(rule=CAD(threshold=0.9, max_tokens=8))),
        ({"max_tokens": 64}, _changed(rule=CAD(max_tokens=32))),
        (
            {"threshold": 0, "gen_length": 64, "block_length": 16},
            cd.DecodeConfig(gen_length=64, block_length=16).fixed(),
        ),
        ({"block_length": 64, "eos_gate_ratio": 0}, _changed(block_length=64, eos_gate_ratio=0.0)),
        ({"rule": "factor(factor=2.0)"}, _changed(rule=cd.Factor(factor=2.0))),
        ({"rule": cd.Factor(factor=2.0)}, _changed(rule=cd.Factor(factor=2.0))),
        ({"rule": "fixed", "cache": "dual"}, _changed(rule=cd.FixedStep(), cache="dual")),
        ({"temperature": 0.5, "top_p": 0.9}, _changed(temperature=0.5, top_p=0.9)),
        ({"stop_at_eos": False, "seed": 3}, _changed(stop_at_eos=False, seed=3)),
        ({"suppress": [7, 8]}, _changed(suppress=(7, 8))),
        ({"stop_sequences": [[5, 6], [7]]}, _changed(stop_sequences=((5, 6), (7,)))),
        ({"eos_token_ids": None}, _changed()),
        ({"max_new_tokens": 100}, _changed(gen_length=128)),
    ],
)
def test_model_args(given: dict[str, Any], expected: cd.DecodeConfig) -> None:
    assert of_model(given) == expected


def test_a_rule_of_ones_own_by_its_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "my_rule.py"
    path.write_text(RULE)
    found = of_model({"rule": f"{path}:Half(share=0.5)"})
    assert type(found.rule).__name__ == "Half"
    assert found.label == "Half:0.5 eos_gate_ratio=0.3"
    assert of_request(DEFAULT, {"rule": f"{path}:Half(share=0.5)"}).config == found


@pytest.mark.parametrize(
    ("given", "fields", "limit"),
    [
        # What every task has changes nothing.
        ({"until": ["\n"], "max_gen_toks": 5, "do_sample": False, "temperature": 0.0}, {}, None),
        ({"num_beams": 1, "top_p": 0.95}, {}, None),
        ({"max_new_tokens": 40}, {"gen_length": 64}, 40),
        ({"max_tokens": 512}, {"gen_length": 512}, 512),
        ({"max_completion_tokens": 3}, {"gen_length": 32}, 3),
        ({"max_new_tokens": 40, "gen_length": 128}, {"gen_length": 128}, 40),
        (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 20},
            {"temperature": 0.7, "top_p": 0.9, "top_k": 20},
            None,
        ),
        ({"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.7, "top_p": 0.9}, None),
        ({"do_sample": True, "top_p": 0.9}, {"temperature": 1.0, "top_p": 0.9}, None),
        ({"do_sample": True, "temperature": 0.0, "top_k": 5}, {}, None),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9}, {}, None),
        ({"do_sample": True, "temperature": 1, "top_k": None}, {"temperature": 1.0}, None),
        ({"threshold": 0.5}, {"rule": CAD(threshold=0.5)}, None),
    ],
)
def test_requests(given: dict[str, Any], fields: dict[str, Any], limit: int | None) -> None:
    assert of_request(DEFAULT, given) == (_changed(**fields), limit)


def test_the_baseline_stays_one_at_other_lengths() -> None:
    base = of_model({"threshold": 0})
    for given, length in (({"gen_length": 64}, 64), ({"max_new_tokens": 300}, 320)):
        found, _ = of_request(base, given)
        assert found == cd.DecodeConfig(gen_length=length).fixed()


def test_a_threshold_ends_the_baseline() -> None:
    base = of_model({"threshold": 0})
    assert base == cd.DecodeConfig(gen_length=256).fixed()
    assert of_request(base, {"threshold": 0.9}).config == _changed(rule=CAD(threshold=0.9))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"treshold": 0.9}, "cd4lm has no setting 'treshold'; did you mean 'threshold'"),
        ({"gen_length": "long"}, "gen_length: expected int, got 'long'"),
        ({"gen_length": 0}, "gen_length=0 is not a multiple of block_length=32"),
        ({"threshold": "high"}, "threshold='high': expected a number"),
        ({"threshold": 0.9, "rule": "fixed"}, "threshold=0.9 is the rule's; give it within rule"),
        ({"rule": "factr"}, "no commit rule 'factr'; did you mean 'factor'"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: expected a whole number from 1"),
        ({"max_new_tokens": 1.5}, r"max_new_tokens=1\.5: expected a whole number"),
        ({"max_new_tokens": "all"}, "max_new_tokens='all': expected a whole number"),
    ],
)
def test_wrong_settings_are_named(given: dict[str, Any], message: str) -> None:
    for read in (of_model, lambda given: of_request(DEFAULT, given)):
        with pytest.raises(ValueError, match=message):
            read(given)
    with pytest.raises(ValueError, match="max_tokens=8 is the confidence rule's"):
        settings.of_model({"rule": "fixed", "max_tokens": 8})
