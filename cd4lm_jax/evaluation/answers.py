"""A model's own answers to the questions of a dataset or of chats, as text to distil on.

What a model would say is what its student can learn to say in fewer passes: where a text has
several right forms, a reference's choice among them is chance to the model, its own is not.
dParallel (arXiv 2509.26488) and d3LLM (arXiv 2601.07568) train on such answers, wrong ones
dropped; so does this. Where nothing says what is right, answers are kept by the model's own
confidence or by agreement of two decodes (see `keeping`); with chats every place where the
assistant speaks is a question, after the turns that the chat has before it.

    OUTPUT/SPLIT.jsonl       a question and an answer a line, or the turns before it as `prompt` and
                             the answer as `completion`, once the split is answered
    OUTPUT/answers.json      the settings and the counts, once all are
    OUTPUT/runs/             what is answered so far; an interrupted run continues there
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cd4lm_jax.data.benchmarks import Problem, chats, word_problems
from cd4lm_jax.data.chat import ChatTemplateError
from cd4lm_jax.data.conversations import conversation
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.evaluation.keeping import (
    Agreeing,
    Confident,
    Right,
    confidence,
    ended,
    similarity,
)
from cd4lm_jax.evaluation.runs.chunks import differences
from cd4lm_jax.evaluation.runs.journal import RUNS_FOLDER
from cd4lm_jax.evaluation.runs.recorder import Recorder
from cd4lm_jax.evaluation.runs.run import execute, score_numbers
from cd4lm_jax.evaluation.tasks import references
from cd4lm_jax.evaluation.tasks.registry import GSM_MINI
from cd4lm_jax.language_model import LanguageModel, load
from cd4lm_jax.models.placement import Placement
from cd4lm_jax.runtime import cluster, files, provenance
from cd4lm_jax.runtime.progress import Progress
from cd4lm_jax.settings.choices import ConfigError
from cd4lm_jax.settings.config import from_plain, to_plain

SETTINGS_FILE = "answers.json"


class AnswersError(ValueError):
    """A folder of other answers, splits that are the same rows, or no right answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswersConfig:
    """Whose answers, to what.

    Attributes:
        output: folder to write, see `cd4lm_jax.evaluation.answers`.
        model: model folder.
        source: dataset, see `cd4lm_jax.data.sources.open_source`.
        splits: of it.
        problems: how many of each split; None for all.
        keep: which answers are kept, of those that end.
        decode: how the questions are answered.
        chunk: questions that are answered together and then written: what an interruption can
            lose. Several hosts share the chunks.
        placement: how the model runs.
    """

    output: str
    model: str
    source: str = "gsm_mini/distill"
    splits: tuple[str, ...] = ("distill", "validation")
    problems: int | None = None
    keep: Right | Confident | Agreeing = Right()
    decode: DecodeConfig = dataclasses.replace(
        GSM_MINI, rule=ConfidenceAdaptive(threshold=0.9), batch_size=64
    )
    chunk: int = 1024
    placement: Placement = Placement()

    def __post_init__(self) -> None:
        if not self.splits or len(set(self.splits)) < len(self.splits):
            raise ValueError(f"splits={self.splits}; give each of one or more splits once")
        if self.problems is not None and self.problems < 1:
            raise ValueError(f"problems={self.problems}; give 1 or more, or none for all")
        if self.again == self.decode:
            raise ValueError(
                f"keep.rule={self.decode.rule} is that of decode, and a decode agrees with itself; "
                "give another rule, such as fixed"
            )
        if self.chunk < 1:
            raise ValueError(f"chunk={self.chunk} questions; give 1 or more, such as 1024")

    @property
    def again(self) -> DecodeConfig | None:
        """How the questions are answered a second time, where two decodes have to agree."""
        if not isinstance(self.keep, Agreeing):
            return None
        return dataclasses.replace(self.decode, rule=self.keep.rule)


def write_answers(config: AnswersConfig) -> dict[str, dict[str, int]]:
    """Answers every question and keeps what `config.keep` says; continues what was interrupted.

    Returns:
        For each split how many were `asked` and how many answers `kept`; of chats also how many
        prompts were `too_long` for the model, which were left out.

    Raises:
        AnswersError: the folder holds other answers, two splits are the same rows, or no answer is
            kept.
        ValueError: a source or lengths that do not fit the model.
    """
    folder = pathlib.Path(config.output)
    asked = _asked(config)
    total = sum(map(len, asked.values())) * (1 if config.again is None else 2)
    quiet = not cluster.is_main()
    with (
        cluster.held(folder),  # first: loading a model may take minutes
        Progress(total, label="answer", unit="question", quiet=quiet) as progress,
    ):
        model = load(config.model, config.placement)
        settings = to_plain(config) | {"model": model.fingerprint}
        for name in ("output", "placement", "chunk"):  # none of them changes an answer
            del settings[name]
        counts = _done(folder, settings)
        if counts is not None:
            return counts
        recorder = Recorder(
            folder / RUNS_FOLDER,
            config.chunk,
            provenance.environment(),
            progress,
            judged="accuracy" if config.keep.judged else "with words",
        )
        counts = {}
        for split, every in asked.items():
            problems = every if config.keep.judged else _prompted(model, every, config)
            kept = _kept(model, split, problems, config, recorder)
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in kept]
            if cluster.is_main():
                files.write_text(folder / f"{split}.jsonl", "".join(lines))
            counts[split] = {"asked": len(every), "kept": len(kept)}
            if not config.keep.judged:
                counts[split]["too_long"] = len(every) - len(problems)
        cluster.meet("answers read")  # before the runs are removed
        if cluster.is_main():
            # Last: it says that the rest is whole.
            record = json.dumps({"settings": settings, "counts": counts}, indent=2)
            files.write_text(folder / SETTINGS_FILE, record + "\n")
            shutil.rmtree(folder / RUNS_FOLDER)
    return counts


def _asked(config: AnswersConfig) -> dict[str, list[Problem]]:
    """The questions of every split."""
    found: dict[str, list[Problem]] = {}
    for split in config.splits:
        read = word_problems if config.keep.judged else chats
        problems = read(config.source, split)[: config.problems]
        if config.keep.judged:
            references.check(problems, score_numbers)
        for other, rows in found.items():
            if problems == rows:
                raise AnswersError(
                    f"{other} and {split} of {config.source} are the same {len(rows)} rows, so "
                    "that one could not validate the other; give one split, or a source with both"
                )
        found[split] = problems
    return found


def _done(folder: pathlib.Path, settings: dict[str, Any]) -> dict[str, dict[str, int]] | None:
    """The counts of a folder that is whole and was made with the same settings.

    Raises:
        AnswersError: it was made with other settings.
    """
    try:
        record = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    try:  # a field that is newer than the folder has its default there
        filled = to_plain(from_plain(AnswersConfig, {**record["settings"], "output": ""}))
    except ConfigError as error:
        raise AnswersError(f"{folder} holds answers of another version ({error})") from None
    if different := differences(settings, {name: filled[name] for name in settings}):
        raise AnswersError(
            f"{folder} holds answers of other settings ({', '.join(different)} differ); give "
            "another output, or remove that folder"
        )
    counts: dict[str, dict[str, int]] = record["counts"]
    return counts


def _prompted(
    model: LanguageModel, problems: list[Problem], config: AnswersConfig
) -> list[Problem]:
    """Chats with their prompts as token ids; those that leave the model no room are left out.

    Raises:
        AnswersError: there is room for none.
    """
    room = model.transformer.config.max_length - config.decode.gen_length
    fitting: list[Problem] = []
    for problem in problems:
        try:
            ids = model.prompt_ids(conversation(problem), problem.get("tools"))
        except ChatTemplateError as error:
            raise AnswersError(f"{problem.get('where')}: {error}") from error
        if len(ids) <= room:
            fitting.append({**problem, "prompt_ids": ids})
    if not fitting:
        raise AnswersError(
            f"none of {len(problems)} prompts has at most {room} tokens, which "
            f"decode.gen_length={config.decode.gen_length} leaves of the model's "
            f"{model.transformer.config.max_length}; give a shorter one"
        )
    return fitting


def _kept(
    model: LanguageModel,
    split: str,
    problems: list[Problem],
    config: AnswersConfig,
    recorder: Recorder,
) -> list[dict[str, Any]]:
    """Answers the questions of a split; rows of what is kept.

    Raises:
        AnswersError: nothing is.
    """
    judge = None if config.keep.judged else _said_something
    run = execute(model, split, problems, config.decode, judge, recorder)
    good = run.correct & ended(run.trajectory)
    match config.keep:
        case Right():
            what = "right; give a model that was trained for them"
        case Confident(least=least):
            good &= confidence(run.trajectory) >= least
            what = f"with an end and a mean probability of {least}; give a lower keep.least"
        case Agreeing(least=least):
            assert config.again is not None  # it is what two decodes are for
            other = execute(model, split, problems, config.again, judge, recorder)
            good &= similarity(run.trajectory, other.trajectory) >= least
            what = f"with an end and alike to {least} in two decodes; give a lower keep.least"
    if not good.any():
        raise AnswersError(
            f"{config.model} answers none of {len(problems)} questions of {config.source} "
            f"{split} {what}, or a longer decode.gen_length"
        )
    rows = zip(problems, run.outputs, good, strict=True)
    return [_row(problem, text) for problem, text, keep in rows if keep]


def _row(problem: Problem, answer: str) -> dict[str, Any]:
    if "messages" not in problem and "tools" not in problem:
        return {"question": problem["question"], "answer": answer}
    row: dict[str, Any] = {"prompt": conversation(problem), "completion": answer}
    return row | ({"tools": problem["tools"]} if "tools" in problem else {})


def _said_something(outputs: Sequence[str], problems: Sequence[Any]) -> npt.NDArray[np.bool_]:
    del problems
    return np.array([bool(text.strip()) for text in outputs])
