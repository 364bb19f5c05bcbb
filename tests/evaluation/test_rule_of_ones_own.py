"""A commit rule in a file goes wherever a built-in one does: decode, evaluate, compare, frontier,
report and lm-evaluation-harness."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from absl.testing import flagsaver

import cd4lm_jax as cd
from cd4lm_jax.commands import common, compare, decode, evaluate, frontier
from cd4lm_jax.data.gsm_mini.generate import generate
from cd4lm_jax.evaluation.output import EvaluationConfig
from cd4lm_jax.settings.choices import ConfigError
from cd4lm_jax.settings.config import config_from_json, config_to_json
from tests import exported

pytestmark = pytest.mark.slow

HALF = '''
import dataclasses
import cd4lm_jax as cd

@cd.rule
@dataclasses.dataclass(frozen=True, kw_only=True)
class Half:
    """Commits a share of what is eligible."""

    share: float = 0.5

    def score(self, proposal):
        return proposal.confidence

    def count(self, proposal):
        return (self.share * proposal.eligible.sum(axis=1)).astype(int)
'''
CONFIG = """
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.evaluation.sweep import SweepConfig

def get_config():
    return SweepConfig(
        output=OUTPUT, teacher=MODEL, student=MODEL, source=SOURCE, problems=4,
        selection_problems=4, thresholds=(0.9,), teacher_tokens=(1,), student_tokens=(),
        decode=DecodeConfig(gen_length=16, block_length=8, batch_size=4),
    )
"""
Run = Callable[..., str]


@pytest.fixture
def rule(tmp_path: pathlib.Path) -> str:
    file = tmp_path / "my_rule.py"
    file.write_text(HALF)
    return f"{file}:Half(share=0.75)"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(main: Callable[..., Any], *argv: str, config: Any = common.NoSettings) -> str:
        capsys.readouterr()
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
            common.run(main, config, ["cd4lm", *argv])
        out, err = capsys.readouterr()
        assert raised.value.code == 0, err
        return out

    return call


def test_it_goes_wherever_a_built_in_one_does(
    rule: str, run: Run, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = exported.export(tmp_path / "model")
    rows = [{"question": p.question, "answer": p.answer} for p in generate("test", 4)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lengths = ["--gen_length=16", "--block_length=8"]

    prompts, answers = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text(json.dumps({"prompt": rows[0]["question"]}))
    page = tmp_path / "page.html"
    run(
        decode.main,
        *(f"--checkpoint={model}", f"--input={prompts}", f"--output={answers}", f"--html={page}"),
        *(*lengths, f"--rule={rule}", "--stop_at_eos=false"),
    )
    decoded = json.loads(answers.read_text())
    # Of 8 positions 6, then 1 (0.75 of 2), then the last.
    assert decoded["nfe"] == 6

    config, output = tmp_path / "config.py", tmp_path / "run"
    config.write_text(
        CONFIG.replace("OUTPUT", repr(str(output)))
        .replace("MODEL", repr(model))
        .replace("SOURCE", repr(str(source)))
    )
    others = ["factor(factor=1.0)", "entropy_bound(bound=0.1)"]
    table = run(
        evaluate.main,
        f"--config={config}",
        f"--config.rules={','.join([rule, *others])}",
        "--config.decode.cache=dual",
        config=EvaluationConfig,
    )
    summary = json.loads((output / "summary.json").read_text())
    labels = [row["rule"] for row in summary["rows"]]
    adaptive = ["confidence:0.9", "Half:0.75", "factor:1.0", "entropy_bound:0.1"]
    assert labels == [f"{name} cache=dual" for name in ["fixed:1", *adaptive, *adaptive]]
    for label in labels:
        assert label.split()[0] in table
    assert "Half:0.75 cache=dual" in (output / "report.html").read_text()

    half, factor = (output / "runs" / f"student {name} cache=dual" for name in adaptive[1:3])
    said = run(compare.main, f"--a={half}", f"--b={factor}")
    assert "McNemar" in said
    run(frontier.main, f"--runs={output}", f"--output={tmp_path / 'frontier'}")
    assert "Half cache=dual" in (tmp_path / "frontier/frontier.html").read_text()

    pytest.importorskip("lm_eval")
    from cd4lm_jax.evaluation.harness.adapter import DiffusionLM

    asked: list[cd.DecodeConfig] = []

    def counted(model: cd.LanguageModel, prompts: Any, config: cd.DecodeConfig) -> cd.Decoded:
        asked.append(config)
        return cd.decode(model, prompts, config)

    monkeypatch.setattr("cd4lm_jax.evaluation.harness.adapter.decode", counted)
    from lm_eval.api.instance import Instance

    lm = DiffusionLM(model, rule=rule, gen_length=16, block_length=8, eos_gate_ratio=0.0)
    request = Instance("generate_until", {}, (rows[0]["question"], {"until": []}), 0)
    assert len(lm.generate_until([request])) == 1
    assert [config.label for config in asked] == ["Half:0.75"]


def test_it_is_read_back_from_json_and_known_by_its_source(rule: str) -> None:
    config = cd.DecodeConfig(rule=rule)  # type: ignore[arg-type]  # text is read
    again = config_from_json(cd.DecodeConfig, config_to_json(config))
    assert again == config
    assert again.fingerprint == config.fingerprint
    file = pathlib.Path(rule.partition(":")[0])
    file.write_text(HALF + "\n# changed\n")
    assert cd.DecodeConfig(rule=rule).fingerprint != config.fingerprint  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Unregistered:
    def score(self, proposal: cd.Proposal) -> Any:
        return proposal.confidence

    def count(self, proposal: cd.Proposal) -> Any:
        return proposal.step + 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cd.DecodeConfig(rule=Unregistered()), "put @cd4lm_jax.rule above it"),
        (lambda: cd.DecodeConfig(rule=cd.Factor), "rule=Factor is a class; give Factor()"),  # type: ignore[arg-type]
        (lambda: cd.DecodeConfig(rule="facto"), "no commit rule 'facto'; did you mean 'factor'"),  # type: ignore[arg-type]
        (lambda: cd.decode(None, [], rul=1), "no option 'rul' of a decode; did you mean 'rule'"),  # type: ignore[arg-type]
    ],
)
def test_a_rule_that_is_none_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises((ConfigError, TypeError, ValueError), match=re.escape(message)):
        make()
