"""A model on a task under a published setting: accuracy, passes, and how they were come by."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from cd4lm_jax.decoding.config import DecodeChanges, DecodeConfig
from cd4lm_jax.decoding.rule import Rule
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.evaluation import output
from cd4lm_jax.evaluation.runs.run import execute, name_of
from cd4lm_jax.evaluation.tasks import registry
from cd4lm_jax.evaluation.tasks.registry import Setting
from cd4lm_jax.language_model import LanguageModel, load


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(output.EvaluationConfig):
    """Which model answers what, and how.

    What is None or empty is as the setting has it.

    Attributes:
        model: model folder.
        task: of `cd4lm_jax.evaluation.tasks.registry.TASKS`.
        setting: by whom it was published: `cd4lm`, `cd4lm_chat` or `llada`; gsm_mini has `demo` and
            `fixed`.
        source: path of the problems; None for where the task finds them by itself.
        split: of them; None for the one that results are reported on.
        problems: the first so many; None for all.
        label: what table and plot call the model.
        prompt: what is asked, with `{question}` in it.
        decode: fields of the setting's `DecodeConfig` that are changed, such as `cache`, `rule` or
            `gen_length`.
        thresholds: a run of CAD at each, in place of the setting's rule.
        rules: a run under each of these commit rules, in place of the setting's.
        baseline: whether to decode at one token a pass too, first: speed-up is counted against it.
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
    prompt: str | None = None
    decode: DecodeChanges = dataclasses.field(default_factory=dict)
    thresholds: tuple[float, ...] = ()
    rules: tuple[Rule, ...] = ()
    baseline: bool = False
    truncate_prompts: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt is not None and "{question}" not in self.prompt:
            raise ValueError(f"prompt={self.prompt!r} asks no question; put {{question}} in it")
        if not self.label or "/" in self.label:
            raise ValueError(f"label={self.label!r} begins the names of folders; give a word")
        if self.problems is not None and self.problems < 1:
            raise ValueError(f"problems={self.problems}; give 1 or more, or none for all")
        output.check_distinct(self.runs)  # a task or setting that does not exist is found here too

    @property
    def published(self) -> Setting:
        """The setting with the prompt that is asked.

        Raises:
            TaskError: no such task, or none of its settings.
        """
        setting = registry.task(self.task).setting(self.setting)
        return dataclasses.replace(setting, prompt=self.prompt or setting.prompt)

    @property
    def runs(self) -> list[DecodeConfig]:
        """How the problems are decoded, one a run, the baseline first.

        Raises:
            TaskError: no such task, or none of its settings.
            ValueError: options that do not fit each other.
        """
        base = dataclasses.replace(self.published.decode, **self.decode)
        # A setting's cap of tokens a pass stays.
        cad = base.rule if isinstance(base.rule, ConfidenceAdaptive) else ConfidenceAdaptive()
        sweep = [dataclasses.replace(cad, threshold=threshold) for threshold in self.thresholds]
        rules = [*sweep, *self.rules]
        # The fixed-step form fills the generation; a rule given in its place stops at the end.
        stops = self.decode.get("stop_at_eos", True)
        found = [dataclasses.replace(base, rule=it, stop_at_eos=stops) for it in rules] or [base]
        fixed = base.fixed()
        return [fixed, *found] if self.baseline and fixed not in found else found


def benchmark(config: BenchmarkConfig, *, allow_code_execution: bool = False) -> dict[str, Any]:
    """Runs the evaluation, or continues it; writes and returns the summary.

    Raises:
        ValueError: model, problems, prompts or lengths that do not fit, code that may not be run,
            or a folder that is not free.
    """
    start = time.perf_counter()
    task, setting, runs = registry.task(config.task), config.published, config.runs
    # Before anything is decoded, which may take hours.
    judge = task.judge(allow_code_execution=allow_code_execution)
    problems = task.problems(config.source, config.split, config.problems)
    with output.opened(config, len(runs) * len(problems), start) as evaluation:
        model = load(config.model, config.placement)
        asked, truncated = registry.asked(
            model,
            problems,
            setting,
            gen_length=runs[0].gen_length,
            truncate=config.truncate_prompts,
        )
        done = [
            execute(model, config.label, asked, decode, judge, evaluation.recorder)
            for decode in runs
        ]
        baseline = done[0] if runs[0] == runs[0].fixed() else None
        shown = runs[0]
        summary = {
            "rows": [run.row(run.seconds_of(baseline) if baseline else None) for run in done],
            "baseline": name_of(config.label, runs[0]) if baseline else None,
            "chosen": None,
            "judged": task.meaning(problems),
            "notes": _notes(config, model, len(asked), truncated),
            "task": config.task,
            "setting": config.setting,
            "source": config.source or task.source,
            "truncated_prompts": truncated,
            "batch_size": shown.batch_size,
            "gen_length": shown.gen_length,
            "block_length": shown.block_length,
        }
        return evaluation.write(summary, text=model.token_text)


def _notes(
    config: BenchmarkConfig, model: LanguageModel, problems: int, truncated: int
) -> list[str]:
    """Sentences under the table, for the report and the terminal."""
    decode = config.runs[0]
    changed = [name for name in ("prompt", "thresholds", "rules") if getattr(config, name)]
    changed += config.decode
    but = f" with other {' and '.join(changed)}" if changed else ""
    how = "put in the chat template" if config.published.chat else "asked as raw text"
    notes = [
        f"{problems:,} problems of {config.task} under the setting {config.setting}{but}, {how}: "
        f"{decode.gen_length} generated positions in blocks of {decode.block_length}."
    ]
    if truncated:
        room = model.transformer.config.max_length - decode.gen_length
        notes.append(
            f"{truncated:,} of {problems:,} prompts were longer than the {room} positions that the "
            "model has beside the generation and lost their start."
        )
    return notes
