"""A model's own right answers to the questions of a dataset, as text to distil on.

What a model would say is what its student can learn to say in fewer passes: where a text has
several right forms, a reference's choice among them is chance to the model, its own is not.
dParallel (arXiv 2509.26488) and d3LLM (arXiv 2601.07568) train on such answers, wrong ones
dropped; so does this.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

from cd4lm_jax.data.sources import Example, open_source
from cd4lm_jax.evaluation.runs import run as runs
from cd4lm_jax.language_model import LanguageModel, load
from cd4lm_jax.runtime import files
from cd4lm_jax.runtime.progress import Progress

SETTINGS_FILE = "answers.json"
_CHUNK = 1024  # problems between two updates of the progress bar


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswersConfig:
    """Whose answers, to what.

    Attributes:
        output: folder of ``SPLIT.jsonl``, a question and an answer a line, and ``answers.json``,
            these settings and the counts.
        model: model folder.
        source: dataset, see :func:`cd4lm_jax.data.sources.open_source`.
        splits: of it.
        problems: how many of each split; None for all.
        threshold: of CAD.
        decode: lengths, limits and batch size.
    """

    output: str
    model: str
    source: str = "gsm_mini/distill"
    splits: tuple[str, ...] = ("distill", "validation")
    problems: int | None = None
    threshold: float = 0.9
    decode: runs.DecodeSettings = runs.DecodeSettings(batch_size=64)


def write_answers(config: AnswersConfig) -> dict[str, dict[str, int]]:
    """Answers every question, keeps what is right and ended; what is there already is left.

    Returns:
        For each split how many were ``asked`` and how many answers ``kept``.

    Raises:
        ValueError: a source or lengths that do not fit the model, or no right answer at all.
    """
    folder = pathlib.Path(config.output)
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    del settings["output"]  # a folder may be moved
    counts = _done(folder, settings)
    if counts is not None:
        return counts
    model = load(config.model)
    counts = {}
    for split in config.splits:
        source = open_source(config.source, split)
        asked = source.__getitems__(range(len(source))[: config.problems])
        kept = _right_answers(model, asked, config, split)
        if not kept:
            raise ValueError(
                f"{config.model} answers none of {len(asked)} questions of {config.source} "
                f"{split} right; give a model that was trained for them"
            )
        lines = [json.dumps(example, ensure_ascii=False) + "\n" for example in kept]
        files.write_text(folder / f"{split}.jsonl", "".join(lines))
        counts[split] = {"asked": len(asked), "kept": len(kept)}
    # Last: it says that the rest is whole.
    record = json.dumps({"settings": settings, "counts": counts}, indent=2)
    files.write_text(folder / SETTINGS_FILE, record + "\n")
    return counts


def _done(folder: pathlib.Path, settings: object) -> dict[str, dict[str, int]] | None:
    """The counts of a folder that is whole and was made with the same settings."""
    try:
        record = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return record["counts"] if record["settings"] == settings else None


def _right_answers(
    model: LanguageModel, asked: list[Example], config: AnswersConfig, split: str
) -> list[Example]:
    kept: list[Example] = []
    with Progress(len(asked), label=f"answer {split}", unit="question") as progress:
        for start in range(0, len(asked), _CHUNK):
            part = asked[start : start + _CHUNK]
            run = runs.confidence(model, "model", part, config.decode, config.threshold)
            ended = run.trajectory.length < config.decode.gen_length
            kept += [
                {"question": example["question"], "answer": text}
                for example, text, good in zip(part, run.outputs, run.correct & ended, strict=True)
                if good
            ]
            done = start + len(part)
            progress.update(done, {"right": len(kept) / done})
    return kept
