"""An evaluation's folder: what is in it before, while and after runs are decoded.

    OUTPUT/runs/NAME/problems.jsonl     see journal.py
    OUTPUT/report.html, pareto.png
    OUTPUT/environment.json             versions, device, commit, date; of earlier starts too
    OUTPUT/config.json                  resolved settings
    OUTPUT/summary.json                 the table, and how much of the time was decoding

All but the runs is written at the end, the summary last: where it is, the rest is whole, and an
evaluation that is refused or fails leaves what an earlier one wrote.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.evaluation.report.report import write_report
from cd4lm_jax.evaluation.report.rows import SUMMARY_FILE
from cd4lm_jax.evaluation.runs.journal import PROBLEMS_FILE, RUNS_FOLDER
from cd4lm_jax.evaluation.runs.recorder import Recorder
from cd4lm_jax.models.placement import Placement
from cd4lm_jax.runtime import cluster, files, provenance
from cd4lm_jax.runtime.progress import Progress
from cd4lm_jax.settings.config import config_to_json

CONFIG_FILE = "config.json"
ENVIRONMENT_FILE = "environment.json"


class OutputError(ValueError):
    """A folder that holds something else than an evaluation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What every evaluation has.

    Attributes:
        output: its folder. An evaluation that was interrupted continues there.
        chunk: problems that are decoded together and then written: what an interruption can lose.
            Within a chunk a problem that ends leaves its place in the batch to the next, so a
            large one is faster. Several hosts share the chunks.
        placement: how the models run.
    """

    output: str
    chunk: int = 512
    placement: Placement = Placement()

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"chunk={self.chunk} problems; give 1 or more, such as 512")


def check_distinct(decodes: Sequence[DecodeConfig]) -> None:
    """Refuses runs of one name: each has a folder and a row of that name.

    Raises:
        ValueError: two configs with the same label.
    """
    labels = [decode.label for decode in decodes]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"two runs are {label!r}; give each rule and its options once")


class Evaluation:
    """An evaluation that is under way; made by `opened`."""

    def __init__(self, config: EvaluationConfig, progress: Progress, start: float) -> None:
        self.folder = pathlib.Path(config.output)
        self.recorder = Recorder(
            self.folder / RUNS_FOLDER, config.chunk, provenance.environment(), progress
        )
        self._config, self._start = config, start

    def write(
        self,
        summary: Mapping[str, Any],
        *,
        curves: Sequence[Mapping[str, Any]] = (),
        text: Callable[[int], str],
    ) -> dict[str, Any]:
        """Writes all but the runs; returns the summary with what is known of the whole.

        Args:
            summary: rows of runs that were recorded, and what is said of them.
            curves: of the training of what was evaluated.
            text: of a token id.
        """
        tally, now = self.recorder.tally, self.recorder.environment
        earlier = [where for where in tally.environments if where != now]
        notes = [*summary["notes"]]
        if tally.earlier:
            commits = ", ".join(dict.fromkeys(where["commit"] for where in tally.environments))
            notes.append(
                f"{tally.earlier:,} of {tally.answered:,} answers were there from an earlier start "
                f"(commit {commits}); times of different starts are not compared."
            )
        whole = {**summary, "notes": notes, "device": now["device"]}
        records = {
            row["name"]: self.folder / RUNS_FOLDER / row["name"] / PROBLEMS_FILE
            for row in whole["rows"]
        }
        if cluster.is_main():
            write_report(self.folder, whole, curves, records, text=text)
        if tally.decoding:
            wall = time.perf_counter() - self._start
            whole["overhead"] = {
                "wall_seconds": wall,
                "decoding_seconds": tally.decoding,
                "preparing_seconds": tally.preparing,
                "decoding_share": tally.decoding / wall,
                "decoding_share_prepared": tally.decoding / (wall - tally.preparing),
            }
        if not cluster.is_main():
            return whole
        files.write_text(self.folder / ENVIRONMENT_FILE, _json({**now, "earlier": earlier}))
        files.write_text(self.folder / CONFIG_FILE, config_to_json(self._config))
        files.write_text(self.folder / SUMMARY_FILE, _json(whole))
        return whole


@contextlib.contextmanager
def opened(config: EvaluationConfig, total: int, start: float) -> Iterator[Evaluation]:
    """Holds the output folder for this process; of several hosts the main one holds it for all.

    Args:
        config: the settings, kept beside the results.
        total: answers that the evaluation asks for, for the progress display.
        start: `time.perf_counter()` when the evaluation began.

    Raises:
        InUseError: another process works in the folder.
        OutputError: the folder holds something else.
    """
    folder = pathlib.Path(config.output)
    if (folder / CONFIG_FILE).exists() and not (folder / ENVIRONMENT_FILE).exists():
        raise OutputError(
            f"{folder} holds a {CONFIG_FILE} that is of no evaluation, as folders of training runs "
            "and models do; give an output of its own"
        )
    with (
        cluster.held(folder),
        Progress(total, label="evaluate", unit="answer", quiet=not cluster.is_main()) as progress,
    ):
        yield Evaluation(config, progress, start)


def overhead(summary: Mapping[str, Any]) -> str | None:
    """What a summary says of time, as a sentence; None where nothing was decoded."""
    found = summary.get("overhead")
    if found is None:
        return None
    seconds = (found[f"{name}_seconds"] for name in ("decoding", "wall", "preparing"))
    decoding, wall, preparing = (f"{value:.1f} s" for value in seconds)
    return (
        f"Decoding took {decoding} of {wall}, {found['decoding_share']:.0%}; encoding and "
        f"compiling {preparing}; of the rest decoding was {found['decoding_share_prepared']:.0%}."
    )


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"
