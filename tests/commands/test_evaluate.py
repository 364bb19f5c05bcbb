"""launch.evaluate on a small task: interrupted by every signal, then gone on with."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from absl.testing import flagsaver

from cd4lm_jax.commands import common, compare, evaluate
from cd4lm_jax.evaluation.output import EvaluationConfig
from tests import exported
from tests.conftest import ROOT

CONFIGS = ROOT / "experiments" / "configs"
RUN = "runs/model confidence:0.9"
COUNT = 600

Command = Callable[..., list[str]]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The arguments of launch.evaluate for a random model on problems in a file."""
    folder = tmp_path_factory.mktemp("evaluate")
    source = folder / "rows.jsonl"
    rows = [
        {"question": f"Amy has {n % 9} pens. She buys {n % 7}.", "answer": f"#### {n % 5}"}
        for n in range(COUNT)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = exported.export(folder / "model")

    def arguments(output: pathlib.Path, *more: str, config: str = "gsm8k") -> list[str]:
        settings = {
            "output": output,
            "model": model,
            "source": source,
            "prompt": "{question}",
            "setting": "cd4lm_chat",
            "decode.gen_length": 16,
            "decode.block_length": 8,
            "decode.eos_gate_ratio": 0,
            "decode.rule": "confidence",
            "thresholds": 0.9,
            "chunk": 12,
            "placement.dtype": "float32",
        }
        changes = [f"--config.{name}={value}" for name, value in settings.items()]
        return [f"--config={CONFIGS / config}_eval.py", *changes, *more]

    return arguments


def call(arguments: list[str], *, code: int = 0) -> None:
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
        common.run(evaluate.main, EvaluationConfig, argv=["evaluate", *arguments])
    assert raised.value.code == code


def interrupt(
    arguments: list[str], output: pathlib.Path, number: signal.Signals, *, beyond: int
) -> tuple[int, str]:
    """Sends a signal when more problems than so many are on the disk; exit code and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.evaluate", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(output.parent / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    file, end = output / RUN / "problems.jsonl", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if file.exists() and file.read_bytes().count(b"\n") > beyond:
            process.send_signal(number)
            break
        time.sleep(0.01)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.slow
def test_interrupted_by_every_signal_it_ends_with_the_same_bytes(
    command: Command, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, count = tmp_path / "killed", 0
    for number, code in ((signal.SIGTERM, 75), (signal.SIGKILL, -9)):
        found, err = interrupt(command(output), output, number, beyond=count)
        assert found == code, err
        lines = (output / RUN / "problems.jsonl").read_bytes().count(b"\n")
        assert count < lines < COUNT, "the signal came too late"
        count = lines
        if number == signal.SIGTERM:
            assert err.endswith(
                f"SIGTERM: stopped; what was answered is in {output}, the same command continues\n"
            )
        assert not (output / "summary.json").exists()
    call(command(output))
    printed = capsys.readouterr().out
    assert "of 600 answers were there from an earlier start" in printed
    assert "Decoding took " in printed
    (row,) = json.loads((output / "summary.json").read_text())["rows"]
    assert {"accuracy", "nfe", "tpf", "problems"} <= set(row)
    assert not {"tps", "speedup"} & set(row)

    whole = tmp_path / "whole"
    call(command(whole))
    files = [folder / RUN / "problems.jsonl" for folder in (output, whole)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "tps" in json.loads((whole / "summary.json").read_text())["rows"][0]
    capsys.readouterr()
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
        common.run(compare.main, argv=["compare", f"--a={output}", f"--b={whole}"])
    assert raised.value.code == 0
    assert "a matches b" in capsys.readouterr().out


def test_errors_are_one_line_and_nothing_is_decoded(
    command: Command, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    call(command(output, config="humaneval"), code=2)
    assert "allow it with --allow_code_execution" in capsys.readouterr().err
    call(command(output, "--config.source=none", config="mbpp"), code=2)
    assert "allow it with --allow_code_execution" in capsys.readouterr().err
    call(command(output, "--config.source=none", config="math500"), code=2)
    assert "math500 comes from a file: give its path" in capsys.readouterr().err
    assert not output.exists()
    call(command(output, "--config.setting=lada"), code=2)
    assert "did you mean 'llada'" in capsys.readouterr().err
    call(command(output, "--config.decode.gen_length=192"), code=2)
    assert "gen_length=192 leaves no room for a prompt" in capsys.readouterr().err


def test_help_lists_the_settings_of_the_config(
    command: Command, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call([*command(tmp_path)[:1], "--help"])
    out = capsys.readouterr().out
    assert "settings (BenchmarkConfig), each as --config.NAME=VALUE; as " in out
    assert "--config.truncate_prompts  bool, False" in out
    assert "--allow_code_execution" in out
