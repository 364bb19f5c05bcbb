"""Flags of launch.decode beyond the published ones reach the decoder and change what they name."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from absl.testing import flagsaver

from cd4lm_jax.commands import common, decode
from tests import exported

pytestmark = pytest.mark.slow

Decode = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return exported.export(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(checkpoint: str, tmp_path: pathlib.Path) -> Decode:
    def call(*flags: str, **fields: Any) -> list[dict[str, Any]]:
        prompts, output = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
        prompts.write_text(json.dumps({"prompt_ids": [9, 8, 7], **fields}))
        argv = ["decode", f"--checkpoint={checkpoint}", f"--input={prompts}"]
        argv += [f"--output={output}", "--gen_length=16", "--block_length=8"]
        if not any("rule=" in flag or "threshold" in flag for flag in flags):
            argv.append("--threshold=0.3")
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
            common.run(decode.main, argv=[*argv, *flags])
        assert raised.value.code == 0
        return [json.loads(line) for line in output.read_text().splitlines()]

    return call


def test_every_flag_does_what_it_names(run: Decode) -> None:
    (plain,) = run("--stop_at_eos=false")
    (anew,) = run("--stop_at_eos=false", "--cache=dual", "--refresh_interval=1")
    assert anew["generated_ids"] == plain["generated_ids"]

    first, second = plain["generated_ids"][:2]
    (ended,) = run("--stop_at_eos=false", f"--stop_sequence={first},{second}")
    assert ended["nfe"] < plain["nfe"]
    assert ended["generated_ids"][:2] == [first, second]
    (other,) = run("--stop_at_eos=false", f"--suppress={first},{second}")
    assert not {first, second} & set(other["generated_ids"])
    (short,) = run("--stop_at_eos=false", "--max_passes=2")
    assert short["nfe"] == 2 < plain["nfe"]
    (causal,) = run("--stop_at_eos=false", "--block_causal")
    assert causal["generated_ids"] != plain["generated_ids"]
    drawn = {
        tuple(run("--temperature=3", f"--seed={seed}", *few)[0]["generated_ids"])
        for seed in (1, 2)
        for few in ((), ("--top_k=4",), ("--top_p=0.3",))
    }
    assert len(drawn) == 6

    (filled,) = run("--stop_at_eos=false", given_ids=[None, 17, None, 19])
    assert [filled["generated_ids"][at] for at in (1, 3)] == [17, 19]
    assert [filled["committed_at"][at] for at in (1, 3)] == [0, 0]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--stop_sequence=1,x", "stop_sequence=1,x are no token ids; give some like 317,316"),
        ("--suppress=a", "flags.suppress: expected int, got 'a'"),
        ("--top_p=0", "top_p=0.0 is no probability"),
        ("--refresh_interval=2", "refresh_interval=2 refreshes a cache, and cache=none keeps none"),
    ],
)
def test_says_what_does_not_fit(
    run: Decode, flag: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AssertionError):  # of the exit code
        run(flag)
    assert message in capsys.readouterr().err


HALF = """
import dataclasses
import cd4lm_jax as cd

@cd.rule
@dataclasses.dataclass(frozen=True, kw_only=True)
class Half:
    share: float = 0.5

    def score(self, proposal):
        return proposal.confidence

    def count(self, proposal):
        return (self.share * proposal.eligible.sum(axis=1)).astype(int)
"""


def test_a_rule_is_named_with_its_fields_or_field_by_field(
    run: Decode, tmp_path: pathlib.Path
) -> None:
    fill = ("--stop_at_eos=false", "--threshold=0.3")
    (plain,) = run(*fill)
    for same in (
        ("--rule=confidence(threshold=0.3)",),
        ("--rule=confidence", "--rule.threshold=0.3"),
        ("--commit=confidence",),
    ):
        assert run(*fill, *same) == [plain]
    (fixed,) = run("--stop_at_eos=false", "--threshold=0.3", "--rule=fixed(steps=4)")
    assert fixed["nfe"] == 4
    (entropy,) = run("--stop_at_eos=false", "--rule=entropy")
    assert entropy["nfe"] >= 2

    file = tmp_path / "my_rule.py"
    file.write_text(HALF)
    (half,) = run("--stop_at_eos=false", f"--rule={file}:Half")
    assert half["nfe"] == 8  # 4, 2, 1 and 1 of each block
    (more,) = run("--stop_at_eos=false", f"--rule={file}:Half(share=1.0)")
    assert more["nfe"] == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rule=facto"], "no commit rule 'facto'; did you mean 'factor'?"),
        (["--rule=factor(fctor=1)"], "no field 'fctor' in flags.rule; did you mean 'factor'?"),
        (["--rule=nowhere.py:Half"], "no rule file 'nowhere.py'"),
        (["--rule=fixed(steps=3)"], "steps=3 cannot be shared out among 2 blocks of 8 positions"),
        (["--rule=factor(factor=1"], "is not of the form NAME or NAME(FIELD=VALUE, ...)"),
        (["--rule.treshold=1"], "no field 'treshold' in flags.rule; did you mean 'threshold'?"),
    ],
)
def test_says_what_is_wrong_with_a_rule(
    checkpoint: str,
    flags: list[str],
    message: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt_ids": [9]}))
    argv = ["decode", f"--checkpoint={checkpoint}", f"--input={prompts}", "--gen_length=16"]
    argv += [f"--output={tmp_path / 'out'}", "--block_length=8", *flags]
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
        common.run(decode.main, argv=argv)
    error = capsys.readouterr().err
    assert raised.value.code == 2
    assert message in error
    assert error.count("\n") == 1
