"""What is no sound checkpoint in a run's folder: found, and moved out of the way.

A checkpoint is a folder named by its step. It has its name only when it is complete, so one that
lacks files was being removed for newer ones when the run was killed; one whose files are there and
wrong is damaged. Whatever else is in the folder is not touched.
"""

from __future__ import annotations

import json
import logging
import pathlib
import shutil

from cd4lm_jax.checkpoints.array_trees import description
from cd4lm_jax.runtime import checksums

UNFINISHED = ".orbax-checkpoint-tmp"
"""Ends the name of a checkpoint that orbax is still writing."""
_ASIDE = "damaged-"
"""Begins the name of a checkpoint that no longer counts."""
_DESCRIPTION = ("_CHECKPOINT_METADATA", "state/_METADATA")
"""What orbax must be able to read of every checkpoint in a folder."""
_CONTENT = ("state", "metrics", "_CHECKPOINT_METADATA", "commit_success.txt", "orbax.checkpoint")
"""What a checkpoint consists of."""

_log = logging.getLogger(__name__)


def clear(folder: pathlib.Path) -> None:
    """Moves what has no sound description out of the way; orbax refuses a folder with one."""
    paths = [path for path in folder.glob("*") if _is_step(path.name)]
    sound = {path for path in paths if _is_sound(path)}
    newest = max((int(path.name) for path in sound), default=-1)
    for path in paths:
        if path in sound:
            continue
        if int(path.name) < newest and _is_remainder(path):
            shutil.rmtree(path)
        else:
            set_aside(path)


def warn_of_strays(folder: pathlib.Path) -> None:
    """Says which entries of a run's folder are none of its checkpoints."""
    strays = sorted(
        path.name
        for path in folder.glob("*")
        if not (
            _is_step(path.name)
            or path.name.startswith((_ASIDE, "."))
            or path.name.endswith(UNFINISHED)
        )
    )
    if strays:
        more = f" and {len(strays) - 3} more" if len(strays) > 3 else ""
        _log.warning(
            "warning: %s has files that are no checkpoints (%s%s); they are left alone",
            folder,
            ", ".join(strays[:3]),
            more,
        )


def set_aside(path: pathlib.Path) -> None:
    """Renames a damaged checkpoint and says so; an earlier one of that name is replaced."""
    aside = path.with_name(f"{_ASIDE}{path.name}")
    _log.warning(
        "warning: checkpoint %s is damaged; it is kept as %s and another one is used",
        path,
        aside.name,
    )
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)
    path.rename(aside)


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdecimal() and str(int(name)) == name


def _is_sound(path: pathlib.Path) -> bool:
    """Whether what is saved beside a checkpoint's arrays can be read and is as it was saved."""
    step, file = int(path.name), path / "metrics" / "metrics"
    try:
        notes = dict(description(path).custom_metadata or {})
        score = json.loads(file.read_text())["score"] if file.exists() else None
    except (ValueError, KeyError, TypeError, OSError):
        return False
    if notes.pop("checksum", None) != checksums.of_json(notes):
        return False
    # Checkpoints of earlier versions have neither score nor step in their notes.
    return bool(notes.get("score", score) == score and notes.get("step", step) == step)


def _is_remainder(path: pathlib.Path) -> bool:
    """Whether this is what is left of a checkpoint that was being removed."""
    if path.is_symlink() or not path.is_dir():
        return False
    complete = all((path / file).exists() for file in _DESCRIPTION)
    return not complete and all(entry.name in _CONTENT for entry in path.iterdir())
