"""A model of this process as a folder that can be loaded again, of either layout."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Literal, get_args

from cd4lm_jax.checkpoints.conversion import convert
from cd4lm_jax.checkpoints.model_folder import write_model
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.runtime import files
from cd4lm_jax.settings.choices import nearest

Layout = Literal["own", "huggingface"]


def save_model(
    folder: str | os.PathLike[str],
    model: Transformer,
    layout: Layout,
    also: Callable[[pathlib.Path], None] | None = None,
) -> None:
    """Writes a model folder, which appears when it is complete.

    Args:
        folder: must not hold anything yet.
        model: its weights are written as they are, quantised ones too in our own layout.
        layout: `own`, or `huggingface` for what transformers and peft read.
        also: writes what belongs to it, such as a tokenizer, into a folder.

    Raises:
        ValueError: an unknown layout, a folder in use, or a model that the layout has no form for.
        OSError: the disk is full; nothing is left.
    """
    known = list(get_args(Layout))
    if layout not in known:
        raise ValueError(f"no layout {layout!r}; {nearest(layout, known)}")
    target = pathlib.Path(folder).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(
            f"{target} is not empty; give a folder that is, or one that does not exist"
        )
    with files.atomic_folder(target) as fresh:
        own = fresh if layout == "own" else fresh.with_name("own")
        write_model(own, model.in_stacks())
        if also is not None:
            also(own)
        if own != fresh:
            convert(own, fresh)
