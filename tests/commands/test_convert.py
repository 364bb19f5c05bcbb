from __future__ import annotations

import json
import pathlib
import re
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
from absl.testing import flagsaver

from cd4lm_jax.commands import common, convert, decode
from tests import exported
from tests.decoding.recordings import CAD, FIXED, Case, load

pytestmark = pytest.mark.slow

RunPython = Callable[..., subprocess.CompletedProcess[str]]


def run(main: Callable[[], None], *argv: str) -> int | str | None:
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
        common.run(main, argv=["command", *argv])
    return raised.value.code


@pytest.fixture(scope="module")
def cases(golden: pathlib.Path) -> dict[str, Case]:
    return load(golden)


@pytest.fixture(scope="module")
def converted(golden: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The published checkpoint as `launch.convert` turns it into our layout."""
    model = tmp_path_factory.mktemp("converted") / "model"
    assert run(convert.main, f"--source={golden / 'llada_tiny'}", f"--target={model}") == 0
    return model


@pytest.mark.parametrize("names", CAD + FIXED, ids=lambda names: names[0])
def test_a_converted_model_decodes_as_the_recording(
    converted: pathlib.Path,
    cases: dict[str, Case],
    tmp_path: pathlib.Path,
    names: tuple[str, str],
) -> None:
    """From the published layout to ours and through both commands, in a ragged batch."""
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    lines = [{"id": name, "prompt_ids": cases[name]["prompt"]} for name in names]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    given = [f"--checkpoint={converted}", f"--input={prompts}", f"--output={output}"]
    assert run(decode.main, *given, *as_flags(cases[names[0]])) == 0
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["id"] for line in found] == list(names)
    for line in found:
        case = cases[line["id"]]
        expected = np.array(case["output"])
        masked = expected == case["mask_token_id"]
        np.testing.assert_array_equal(np.array(line["generated_ids"])[~masked], expected[~masked])
        np.testing.assert_array_equal(np.array(line["committed_at"]) == 0, masked)
        assert line["nfe"] == case.get("nfe", case.get("steps"))
        assert len(line["confidence"]) == case["gen_length"]


def as_flags(case: Case) -> list[str]:
    """The settings of a recording on the command line."""
    fixed = "steps" in case
    entropy = case.get("selection_method") == "entropy"
    settings = {
        "gen_length": case["gen_length"],
        "block_length": case["block_length"],
        **({"rule.two_pass_share": 0.4} if fixed else {}),
        "commit": "fixed" if fixed else "entropy" if entropy else "confidence",
        "threshold": case.get("confidence_threshold", case.get("entropy_threshold", 0.95)),
        "min_tokens_per_step": case.get("min_tokens_per_step", 1),
        "max_tokens_per_step": case.get("max_tokens_per_step", 16),
        "eos_gate_ratio": case.get("eos_threshold_ratio", 0),
        "eos_token_ids": ",".join(map(str, case.get("eos_token_ids", [317, 316]))),
        "max_steps_per_block": case.get("max_steps_per_block", 0),
        "steps": case.get("steps", 0),
        "cfg_scale": case.get("cfg_scale", 0),
        "temperature": 0,
        "cache": "none",
        "stop_at_eos": "false",
        "propose_mask": "true",
        "batch_size": 8,
        "seed": 0,
    }
    return [f"--{name}={value}" for name, value in settings.items()]


def test_convert_there_and_back(tmp_path: pathlib.Path, run_python: RunPython) -> None:
    source, there = tmp_path / "source", tmp_path / "there"
    exported.export(source)
    done = run_python("-m", "launch.convert", f"--source={source}", f"--target={there}")
    assert done.returncode == 0, done.stderr
    assert re.match(r"(convert .*\n)*convert 21/21 .*\n", done.stderr)
    assert "no auto_map; copy the files and the field" in done.stderr  # it has no modelling code
    assert (
        done.stdout
        == f"{exported.config().num_parameters:,} parameters, Hugging Face layout: {there}\n"
    )
    assert (there / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    again = run_python("-m", "launch.convert", f"--source={source}", f"--target={there}")
    assert again.returncode == 2
    assert again.stderr.startswith(f"error: {there} is not empty; ")


def test_a_diffusion_model_is_made_of_an_autoregressive_one(
    golden: pathlib.Path, tmp_path: pathlib.Path, run_python: RunPython
) -> None:
    source, target = golden / "families" / "qwen2", tmp_path / "target"
    command = ("-m", "launch.convert", f"--source={source}", f"--target={target}")
    refused = run_python(*command, "--block_length=8")
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: --block_length describes a diffusion model; give --diffusion=block or full too\n"
    )
    flags = ("--diffusion=block", "--block_length=8", "--alignment=same")
    done = run_python(*command, *flags)
    assert done.returncode == 0, done.stderr
    config = json.loads((target / "config.json").read_text())
    assert (config["attention"], config["block_length"], config["mask_id"]) == ("block", 8, 211)
    assert (config["alignment"], config["vocab_size"]) == ("same", 256)
