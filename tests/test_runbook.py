"""docs/runbook.md names what there is: settings, flags, files."""

from __future__ import annotations

import re

import pytest
from absl import flags

from cd4lm_jax.commands import plan, training
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.settings.config import describe
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "runbook.md").read_text()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"--(config\.[\w.]+)=", TEXT))))
def test_settings_exist(name: str) -> None:
    assert name in [known for known, _, _ in describe(TrainConfig)]


def test_flags_of_our_commands_exist() -> None:
    assert {plan, training}  # their flags are defined by importing them
    commands = re.findall(r"python -m launch\.(?:[^`\n\\]|\\\n)*", TEXT)
    assert len(commands) >= 3
    for name in re.findall(r"--([a-z_]+)(?==|\s|$)", " ".join(commands)):
        assert name in flags.FLAGS


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"\b(?:launch|experiments|tests)/[\w./-]+\w", TEXT)))
)
def test_files_exist(path: str) -> None:
    assert (ROOT / path).exists()


def test_links_and_verbs_of_the_scripts_exist() -> None:
    for target in re.findall(r"\]\((\S+)\)", TEXT):
        assert (ROOT / "docs" / target).exists()
    script = (ROOT / "launch" / "tpu" / "vm.sh").read_text()
    for verb in re.findall(r"launch/tpu/vm\.sh (\w+)", TEXT):
        assert f"\n{verb})" in script
