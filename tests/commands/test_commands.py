from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable

import pytest
from absl.testing import flagsaver

from cd4lm_jax.commands import common, decode, distill
from cd4lm_jax.data.prompts import read_prompts
from cd4lm_jax.distillation.config import TrainConfig
from tests import exported, pages
from tests.disk import full_beyond

RunPython = Callable[..., subprocess.CompletedProcess[str]]
CONFIGS = pathlib.Path(__file__).parents[2] / "experiments" / "configs"
EARLIER = "what an earlier run wrote\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return pathlib.Path(exported.export(tmp_path_factory.mktemp("model")))


@pytest.fixture
def prompts(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "prompts.jsonl"
    lines = [{"id": "b", "prompt": "How many?"}, {"prompt_ids": [0, 7, 8, 9, 10]}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return path


@pytest.fixture
def output(tmp_path: pathlib.Path) -> pathlib.Path:
    """Holds an earlier result, alone in its folder."""
    path = tmp_path / "results" / "out.jsonl"
    path.parent.mkdir()
    path.write_text(EARLIER)
    return path


@pytest.fixture
def fails(
    checkpoint: pathlib.Path,
    prompts: pathlib.Path,
    output: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """Runs launch.decode in this process, sees to it that it fails well, returns its one line."""
    given = [
        f"--checkpoint={checkpoint}",
        f"--input={prompts}",
        f"--output={output}",
        "--gen_length=16",
        "--block_length=8",
    ]

    def call(*changes: str, code: int = 2) -> str:
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
            common.run(decode.main, argv=["decode", *given, *changes])
        out, err = capsys.readouterr()
        assert (raised.value.code, out) == (code, "")
        *device, line = err.splitlines(keepends=True)
        assert [said.split()[0] for said in device] in ([], ["device:"])
        assert line.startswith("error: ")
        assert line.endswith("\n")
        untouched(output)
        return line.removeprefix("error: ").removesuffix("\n")

    return call


def untouched(output: pathlib.Path) -> None:
    """No half-written file beside the earlier result, and that as it was."""
    assert os.listdir(output.parent) == [output.name]
    assert output.read_text() == EARLIER


def arguments(checkpoint: pathlib.Path, prompts: pathlib.Path, output: pathlib.Path) -> list[str]:
    return [
        *("-m", "launch.decode", f"--checkpoint={checkpoint}", f"--input={prompts}"),
        *(f"--output={output}", "--gen_length=16", "--block_length=8", "--threshold=0.9"),
    ]


@pytest.mark.slow
def test_decode_answers_in_the_order_of_the_input(
    checkpoint: pathlib.Path, prompts: pathlib.Path, tmp_path: pathlib.Path, run_python: RunPython
) -> None:
    output = tmp_path / "new" / "out.jsonl"
    done = run_python(*arguments(checkpoint, prompts, output))
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0] for line in done.stderr.splitlines()] == [
        "device: 1 x cpu, float32, 47,840 parameters",
        "decode 0/2",
        "decode 2/2",
    ]
    assert done.stdout.startswith("2 prompts, ")
    assert done.stdout.endswith(f" s: {output}\n")
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["b", 1]
    positions = ["committed_at", "confidence", "reason"]
    for line in lines:
        assert list(line) == ["id", "generated_ids", "text", "length", "nfe", *positions]
        assert 0 <= line["length"] <= 16
        assert [len(line[name]) for name in ("generated_ids", *positions)] == [16] * 4
        assert 1 <= line["nfe"] <= 16
        assert max(line["committed_at"]) == line["nfe"]
        assert isinstance(line["text"], str)
    assert os.listdir(output.parent) == [output.name]


@pytest.mark.slow
def test_decode_writes_a_page_and_replays_the_first_prompt(
    checkpoint: pathlib.Path, prompts: pathlib.Path, tmp_path: pathlib.Path, run_python: RunPython
) -> None:
    page = tmp_path / "new" / "passes.html"
    given = arguments(checkpoint, prompts, tmp_path / "out.jsonl")
    done = run_python(*given, f"--html={page}", "--play")
    assert done.returncode == 0, done.stderr
    _, where, question, state, *_ = done.stdout.splitlines()
    assert (where, question) == (f"passes: {page}", "How many?")
    nfe = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["nfe"]
    assert state.startswith(f"pass {nfe} of {nfe}, ")  # no terminal: the last state alone
    text = page.read_text(encoding="utf-8")
    shown = pages.replays(text)
    assert json.dumps(shown).count("committed_at") == 2
    assert "How many?" in json.dumps(shown)


@pytest.mark.slow
def test_full_disk_leaves_the_earlier_output(
    checkpoint: pathlib.Path,
    prompts: pathlib.Path,
    output: pathlib.Path,
    run_python: RunPython,
) -> None:
    with full_beyond(100):
        done = run_python(*arguments(checkpoint, prompts, output))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (f"error: {output}.journal/run.json: File too large")
    untouched(output)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ' holds no prompts; give lines like {"id": 1, "prompt": "..."}'),
        ("\n  \n", ' holds no prompts; give lines like {"id": 1, "prompt": "..."}'),
        ('{"prompt": "a"}\n{"prompt": \n', ", line 2: not JSON: "),
        ('{"prompt": "a"}\n\n[1]\n', ", line 3: expected an object with "),
        ('{"id": 1}\n', ", line 1: expected an object with "),
        ('{"prompt": 5}\n', ", line 1: expected an object with "),
        ('{"prompt_ids": "one"}\n', ", line 1: expected an object with "),
        ('{"prompt_ids": [1, 2.5]}\n', ", line 1: expected an object with "),
        ('{"prompt_ids": [true]}\n', ", line 1: expected an object with "),
    ],
)
def test_decode_names_file_and_line_of_a_faulty_input(
    fails: Callable[..., str], prompts: pathlib.Path, text: str, message: str
) -> None:
    prompts.write_text(text)
    assert fails().startswith(f"{prompts}{message}")


def test_decode_needs_utf_8_and_breaks_lines_at_line_feeds_only(
    fails: Callable[..., str], prompts: pathlib.Path
) -> None:
    prompts.write_bytes(b'{"prompt": "\xff"}\n')
    assert fails().startswith(f"{prompts} is not UTF-8")
    prompts.write_text('{"prompt": "one\u2028line"}\n', encoding="utf-8")
    assert [record.prompt for record in read_prompts(prompts)] == ["one\u2028line"]


def test_decode_says_what_does_not_fit_the_model(
    fails: Callable[..., str], prompts: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    assert fails("--block_length=5", code=2).startswith(
        "gen_length=16 is not a multiple of block_length=5"
    )
    assert fails("--threshold=95", code=2).startswith("threshold=95.0 is not a probability")
    assert fails("--eos_token_ids=1,end", code=2).startswith("flags.eos_token_ids: expected ")
    missing = tmp_path / "nowhere"
    assert fails(f"--checkpoint={missing}").startswith(f"no model in {missing}: ")
    assert fails(f"--input={missing}") == f"cannot read {missing}: No such file or directory"
    prompts.write_text(json.dumps({"prompt_ids": [7] * 177}))
    assert fails().startswith("prompt 0 has 177 tokens; the model's 192 positions less ")


def test_decode_refuses_a_checkpoint_of_another_shape(
    fails: Callable[..., str], checkpoint: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"mlp_dim": 64}))
    message = fails(f"--checkpoint={other}")
    assert message.startswith(f"checkpoint {other}/params does not fit: 'blocks.down' has shape ")
    assert message.endswith("(2, 48, 32) there, expected (2, 64, 32)")


def test_a_wrong_command_line(fails: Callable[..., str]) -> None:
    assert fails("--treshold=0.9", code=2).startswith("Unknown command line flag 'treshold'")
    assert fails("--commit=best", code=2).startswith("no commit rule 'best'; known: fixed, ")
    expected = "flags.gen_length: expected int, got 'long'"
    assert fails("--gen_length=long", code=2) == expected


def test_decode_without_an_input_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
        common.run(decode.main, argv=["decode", "--checkpoint=somewhere"])
    assert raised.value.code != 0
    error = "error: give --input=PROMPTS.jsonl or --prompt='a question'\n"
    assert capsys.readouterr().err == error


def test_debug_shows_where_an_error_came_from(
    checkpoint: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["decode", "--debug", f"--checkpoint={checkpoint}", f"--input={tmp_path / 'none'}"]
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
        common.run(decode.main, argv=[*argv, f"--output={tmp_path / 'out'}"])
    assert raised.value.code == 2
    assert capsys.readouterr().err.startswith("Traceback ")


@pytest.mark.parametrize(
    ("argument", "code", "message"),
    [
        ("--config.stps=1", 2, "no field 'stps' in config; did you mean 'steps'?"),
        (
            "--config.objective.temprature=1",
            2,
            "no field 'temprature' in config.objective; did you mean 'temperature'?",
        ),
        ("--config.steps=many", 2, "config.steps: expected int, got 'many'"),
        ("--config.teacher=none", 2, "this config names no teacher, so there is nothing to "),
    ],
)
def test_distill_says_what_is_wrong_with_its_settings(
    argument: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["distill", f"--config={CONFIGS / 'gsm_mini.py'}", argument]
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
        common.run(distill.main, TrainConfig, argv)
    out, err = capsys.readouterr()
    assert (raised.value.code, out, err.count("\n")) == (code, "", 1)
    assert err.startswith(f"error: {message}")
