"""A model on a task under a published setting: accuracy, passes, and how they were come by."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.evaluation import output
from cd4lm_jax.evaluation.tasks import registry
from cd4lm_jax.evaluation.tasks.registry import Setting
from cd4lm_jax.language_model import LanguageModel, load


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(output.EvaluationConfig):
    """Which model answers what, and how.

    What is None is as the setting has it.

    Attributes:
        output, chunk: see :class:`~cd4lm_jax.evaluation.output.EvaluationConfig`.
        model: model folder.
        task: of :data:`cd4lm_jax.evaluation.tasks.registry.TASKS`.
        setting: by whom it was published: ``cd4lm`` or ``llada``; gsm_mini has ``demo`` and
            ``fixed``.
        source: path of the problems; None for where the task finds them by itself.
        split: of them; None for the one that results are reported on.
        problems: the first so many; None for all.
        label: what table and plot call the model.
        dtype: what its weights are held and computed in.
        prompt: what is asked, with ``{question}`` in it.
        gen_length: generated positions.
        block_length: positions decoded together.
        thresholds: of CAD, a run each.
        baseline: whether to decode at one token a pass too, first: speed-up is counted against it.
        batch_size: problems decoded at once.
        temperature, seed: of the noise tokens are drawn with; 0 takes the best.
        truncate_prompts: whether a prompt that is too long for the model loses its start; it is an
            error otherwise.
    """

    model: str
    task: str
    setting: str = "cd4lm"
    source: str | None = None
    split: str | None = None
    problems: int | None = None
    label: str = "model"
    dtype: str = "float32"
    prompt: str | None = None
    gen_length: int | None = None
    block_length: int | None = None
    thresholds: tuple[float, ...] | None = None
    baseline: bool = False
    batch_size: int = 16
    temperature: float = 0.0
    seed: int = 0
    truncate_prompts: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt is not None and "{question}" not in self.prompt:
            raise ValueError(f"prompt={self.prompt!r} asks no question; put {{question}} in it")
        if not self.label or "/" in self.label:
            raise ValueError(f"label={self.label!r} begins the names of folders; give a word")
        if self.thresholds == ():
            raise ValueError("thresholds is empty; give some, or none for the setting's own")
        self.settings  # noqa: B018  a task or setting that does not exist is found here

    @property
    def settings(self) -> list[Setting]:
        """One a run, in their order.

        Raises:
            TaskError: no such task, or none of its settings.
        """
        published = registry.task(self.task).setting(self.setting)
        changed = {
            name: getattr(self, name)
            for name in ("gen_length", "block_length")
            if getattr(self, name) is not None
        }
        decode = dataclasses.replace(
            published.decode,
            batch_size=self.batch_size,
            temperature=self.temperature,
            seed=self.seed,
            **changed,
        )
        setting = Setting(prompt=self.prompt or published.prompt, decode=decode)
        thresholds: list[float | None] = [*(self.thresholds or (published.threshold,))]
        if self.baseline and None not in thresholds:
            thresholds.insert(0, None)
        return [dataclasses.replace(setting, threshold=threshold) for threshold in thresholds]


def benchmark(config: BenchmarkConfig, *, allow_code_execution: bool = False) -> dict[str, Any]:
    """Runs the evaluation, or goes on with it; writes and returns the summary.

    Raises:
        ValueError: model, problems, prompts or lengths that do not fit, code that may not be run,
            or a folder that is not free.
    """
    start = time.perf_counter()
    task, settings = registry.task(config.task), config.settings
    task.judge(allow_code_execution=allow_code_execution)
    problems = task.problems(config.source, config.split, config.problems)
    with output.opened(config, len(settings) * len(problems), start) as evaluation:
        model = load(config.model, dtype=config.dtype)
        done = [
            registry.run(
                task,
                model,
                config.label,
                problems,
                setting,
                allow_code_execution=allow_code_execution,
                truncate=config.truncate_prompts,
                recorder=evaluation.recorder,
            )
            for setting in settings
        ]
        baseline = done[0] if settings[0].threshold is None else None
        asked = registry.asked(model, problems, settings[0], truncate=config.truncate_prompts)
        cut = sum("prompt_ids" in problem for problem in asked)
        decode = settings[0].decode
        summary = {
            "rows": [run.row(run.seconds_of(baseline) if baseline else None) for run in done],
            "chosen": None,
            "notes": _notes(config, model, asked, cut),
            "task": config.task,
            "setting": config.setting,
            "source": config.source or task.source,
            "truncated_prompts": cut,
            "batch_size": decode.batch_size,
            "gen_length": decode.gen_length,
            "block_length": decode.block_length,
        }
        return evaluation.write(summary, text=model.token_text)


def _notes(
    config: BenchmarkConfig, model: LanguageModel, asked: list[Problem], cut: int
) -> list[str]:
    """Sentences under the table, for the report and the terminal."""
    decode = config.settings[0].decode
    changed = [
        name
        for name in ("prompt", "gen_length", "block_length", "thresholds")
        if getattr(config, name) is not None
    ]
    but = f" with {' and '.join(changed)} of its own" if changed else ""
    notes = [
        f"{len(asked):,} problems of {config.task} under the setting {config.setting}{but}: "
        f"{decode.gen_length} generated positions in blocks of {decode.block_length}."
    ]
    if cut:
        room = model.transformer.config.max_length - decode.gen_length
        notes.append(
            f"{cut:,} of {len(asked):,} prompts were longer than the {room} positions that the "
            "model has beside the generation and lost their start."
        )
    return notes
