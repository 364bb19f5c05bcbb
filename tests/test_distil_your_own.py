"""docs/distil_your_own.md from its first command to its last, on the bundled teacher."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys

import pytest

from cd4lm_jax import bundled
from cd4lm_jax.data.gsm_mini.generate import generate
from tests.conftest import ROOT

TEACHER = str(ROOT / bundled.teacher())
PAGE = (ROOT / "docs" / "distil_your_own.md").read_text(encoding="utf-8")
COMMANDS = [
    re.sub(r"\\\n *", "", command)
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for command in re.findall(r"(?:.*\\\n)*.+\n", block)
]
(ROWS,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
_DATA = [f"--config.{name}.{size}" for name in ("data", "validation") for size in (
    "answer_length=64", "max_length=192", "batch_size=2"
)]  # fmt: skip
# What makes a command small: the bundled teacher has 192 positions and knows one kind of question.
SMALLER = {
    "answer": ["--config.decode.gen_length=64", "--config.keep.least=0.5", "--dtype=float32"],
    "plan": [*_DATA, "--config.accumulate=1", "--config.lora.rank=4"],
    "distill": [
        *_DATA,
        *("--config.accumulate=1", "--config.lora.rank=4", "--config.steps=2"),
        *("--config.optimizer.warmup_steps=1", "--config.execution.dtype=float32"),
    ],
    "evaluate": [
        *("--config.decode.gen_length=64", "--config.problems=4"),
        "--config.prompt={question}",  # GSM8K's instructions alone have more tokens than it
    ],
    "serve": ["--port={port}"],
}
POLICY = [
    *("--config.selection.prompts=1", "--config.selection.decode.gen_length=64"),
    "--config.selection.decode.batch_size=1",
]


def run(command: str, folder: pathlib.Path, port: int) -> list[str]:
    """A command of the page as it is run here."""
    given = command.replace("checkpoints/LLaDA-8B-Instruct", TEACHER)
    program, *arguments = shlex.split(given.replace(":8000", f":{port}"))
    if program == "curl":
        return [program, *arguments]
    assert program == "cd4lm"
    verb, *flags = arguments
    if verb == "plan":  # of the bundled teacher
        flags.remove("--model=llada_8b")
        flags.append(f"--config.init={TEACHER}")
        flags.append(f"--config.teacher={TEACHER}")
    policy = POLICY if "--config=llada_8b_on_policy" in flags else []
    more = [flag.replace("{port}", str(port)) for flag in SMALLER[verb]] + policy
    flags = [flag for flag in flags if "gen_length=256" not in flag]
    if verb == "serve":
        more.append("--gen_length=64")
    return [sys.executable, "-m", "cd4lm_jax", verb, *flags, *more]


def test_the_page_is_the_whole_way() -> None:
    verbs = [command.split()[1] for command in COMMANDS if command.startswith("cd4lm ")]
    assert verbs == ["answer", "plan", "distill", "distill", "evaluate", "serve"]
    assert COMMANDS[-1].startswith("curl ")
    assert len(COMMANDS) == 7


@pytest.mark.slow
def test_every_command_of_the_page_runs(tmp_path: pathlib.Path) -> None:
    problems = list(generate("distill", 24))
    chats = [{"messages": [{"role": "user", "content": p.question}]} for p in problems]
    rows = ROWS + "".join(json.dumps(row) + "\n" for row in chats)
    (tmp_path / "chats.jsonl").write_text(rows)
    questions = [{"question": p.question, "answer": p.answer} for p in generate("test", 4)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    said: list[str] = []
    server: subprocess.Popen[str] | None = None
    try:
        for command in COMMANDS:
            arguments = run(command, tmp_path, port)
            if " serve " in command:
                server = subprocess.Popen(
                    arguments, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
                )
                assert server.stdout is not None
                assert f"127.0.0.1:{port}" in server.stdout.readline()  # listens from here on
                continue
            done = subprocess.run(
                arguments, cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
            said.append(done.stdout + done.stderr)
    finally:
        if server is not None:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=60)
    answers, plan, learned, policy, evaluation, request = said
    kept = [json.loads(x) for x in (tmp_path / "runs/answers/train.jsonl").read_text().splitlines()]
    assert len(kept) >= 20
    assert f"{len(kept)} answers kept to 28 questions" in answers
    assert "dollars at 0.69 an hour of a chip" in plan
    assert "data: runs/answers/train.jsonl train[:95%]" in learned
    assert "accuracy" in policy
    for name in ("answers", "on_policy"):
        folder = tmp_path / f"runs/llada_8b_{name}"
        assert json.loads((folder / "data.json").read_text())["data"]["counts"]["taken"] > 0
        assert (folder / "model/config.json").is_file()
    assert (tmp_path / "runs/evaluation/report.html").is_file()
    assert "fixed" in evaluation
    answer = json.loads(request)["choices"][0]["message"]["content"]
    assert re.search(r"\d", answer)
