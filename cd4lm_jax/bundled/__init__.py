"""Where the files are that come with the library: configs, the teacher of gsm_mini, its answers.

In a clone they are folders of `experiments/`; a wheel has them inside `cd4lm_jax`. `MAPPED` of
setup.py says which folder becomes which.
"""

from __future__ import annotations

import pathlib

_INSTALLED = pathlib.Path(__file__).parents[1]
_CLONED = _INSTALLED.parent / "experiments"


def configs() -> str:
    """The folder of the configs that `--config=NAME` finds, each as `NAME.py`."""
    return _folder("configs", "configs")


def teacher() -> str:
    """The model folder of the gsm_mini teacher, a LLaDA-type model of a million parameters."""
    return _folder("bundled/gsm_mini_teacher", "checkpoints/gsm_mini_teacher")


def answers() -> str:
    """The folder of the teacher's right answers: `distill.jsonl` and `validation.jsonl`."""
    return _folder("bundled/gsm_mini_answers", "data/gsm_mini_answers")


def _folder(installed: str, cloned: str) -> str:
    """A path relative to the working directory where the folder is below it, else absolute.

    So the settings of a run in a clone hold wherever the clone is.
    """
    folder = _INSTALLED / installed
    if not folder.is_dir():
        folder = _CLONED / cloned
    here = pathlib.Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
