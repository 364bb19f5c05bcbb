from __future__ import annotations

import json
import pathlib
import re
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
from absl.testing import flagsaver

from launch import common, convert, decode
from tests import exported

RunPython = Callable[..., subprocess.CompletedProcess[str]]


def run(main: Callable[[], None], *argv: str) -> int | str | None:
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
        common.run(main, argv=["command", *argv])
    return raised.value.code


def test_a_converted_model_decodes_as_the_recording(
    golden: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """From the published layout to ours and through both commands, in a ragged batch."""
    cases = {case["case"]: case for case in json.loads((golden / "decoding.json").read_text())}
    arrays = np.load(golden / "decoding.npz")
    model, prompts, output = tmp_path / "model", tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    assert run(convert.main, f"--source={golden / 'llada_tiny'}", f"--target={model}") == 0
    names = ["cad/1", "cad/8"]
    lines = [{"id": name, "prompt_ids": arrays[f"{name}/prompt"].tolist()} for name in names]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    case = cases["cad/1"]
    settings = {
        "gen_length": case["gen_length"],
        "block_length": case["block_length"],
        "commit": "confidence",
        "threshold": case["confidence_threshold"],
        "min_tokens_per_step": case["min_tokens_per_step"],
        "max_tokens_per_step": case["max_tokens_per_step"],
        "eos_gate_ratio": case["eos_threshold_ratio"],
        "eos_token_ids": ",".join(map(str, case["eos_token_ids"])),
        "max_steps_per_block": 0,
        "steps": 0,
        "cfg_scale": 0,
        "temperature": 0,
        "cache": "none",
        "stop_at_eos": "false",
        "propose_mask": "true",
        "batch_size": 8,
        "seed": 0,
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    given = [f"--checkpoint={model}", f"--input={prompts}", f"--output={output}"]
    assert run(decode.main, *given, *flags) == 0
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["id"] for line in found] == names
    for line in found:
        expected = arrays[f"{line['id']}/output"]
        kept = expected != case["mask_token_id"]
        np.testing.assert_array_equal(np.array(line["generated_ids"])[kept], expected[kept])
        assert line["nfe"] == cases[line["id"]]["nfe"]
        assert len(line["committed_at"]) == len(line["confidence"]) == case["gen_length"]
    # cad/8 holds no mask, so what each pass committed is known.
    counts = np.bincount(found[1]["committed_at"])[1:]
    np.testing.assert_array_equal(counts, arrays["cad/8/tokens_per_step"])


def test_convert_there_and_back(tmp_path: pathlib.Path, run_python: RunPython) -> None:
    source, there = tmp_path / "source", tmp_path / "there"
    exported.export(source)
    done = run_python("-m", "launch.convert", f"--source={source}", f"--target={there}")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(convert .*\n)*convert 21/21 .*\n", done.stderr)
    assert (
        done.stdout
        == f"{exported.config().num_parameters:,} parameters, Hugging Face layout: {there}\n"
    )
    assert (there / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    again = run_python("-m", "launch.convert", f"--source={source}", f"--target={there}")
    assert again.returncode == 1
    assert again.stderr.startswith(f"error: {there} is not empty; ")
