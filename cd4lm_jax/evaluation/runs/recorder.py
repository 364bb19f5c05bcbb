"""Keeps the runs of an evaluation as they go, and counts where its time goes."""

from __future__ import annotations

import dataclasses
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

from cd4lm_jax.evaluation.runs.journal import Journal
from cd4lm_jax.runtime.progress import Progress

PROCESS = secrets.token_hex(8)
"""Of this process; speed-up is counted between runs of one."""


@dataclasses.dataclass
class Tally:
    """What an evaluation has done since it started.

    Attributes:
        decoding: seconds of decoding.
        preparing: seconds of encoding prompts and compiling.
        earlier: answers that were there from an earlier start.
        answered: all that are there now.
        environments: what they were decoded on, each once.
    """

    decoding: float = 0.0
    preparing: float = 0.0
    earlier: int = 0
    answered: int = 0
    environments: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Recorder:
    """Keeps runs under a folder, one folder a run.

    Attributes:
        folder: of the runs' folders.
        chunk: problems that are decoded together and then written.
        environment: what this process decodes on.
        progress: where the count of answers is shown.
        judged: what the share of answers that the judge takes is called there.
        tally: counts of the whole evaluation.
    """

    folder: pathlib.Path
    chunk: int
    environment: Mapping[str, Any]
    progress: Progress
    judged: str = "accuracy"
    tally: Tally = dataclasses.field(default_factory=Tally)

    def aside(self, name: str) -> Recorder:
        """For runs that are no rows of the table, in a folder of their own beside the others."""
        return dataclasses.replace(self, folder=self.folder.parent / name)

    def journal(self, name: str, settings: Mapping[str, Any], total: int) -> Journal:
        """The journal of a run, continued if it is there.

        Raises:
            JournalError: the folder holds a run of other settings.
        """
        journal = Journal(
            self.folder / name,
            settings,
            total=total,
            chunk=self.chunk,
            environment=self.environment,
        )
        self.tally.earlier += journal.count
        self.tally.answered += journal.count
        known = self.tally.environments
        known += [where for where in journal.environments if where not in known]
        return journal

    def note(self, count: int, *, decoding: float, preparing: float, right: float) -> None:
        """Counts a chunk: its problems, seconds, and the share of right answers so far."""
        self.tally.decoding += decoding
        self.tally.preparing += preparing
        self.tally.answered += count
        self.progress.update(self.tally.answered, {self.judged: right})
