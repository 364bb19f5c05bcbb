"""From one layout of model folders to the other, streamed: a chunk of one tensor at a time.

The new folder is written beside its name, as `NAME.unfinished`, and renamed when it is complete.
Whatever ends a conversion earlier, the same call continues from what is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from cd4lm_jax.checkpoints import (
    gguf_files,
    huggingface,
    peft,
)
from cd4lm_jax.checkpoints.conversion_source import ConversionError as ConversionError
from cd4lm_jax.checkpoints.diffusion import Diffusion
from cd4lm_jax.checkpoints.to_huggingface import ToHuggingFace
from cd4lm_jax.checkpoints.to_own import ToOwn
from cd4lm_jax.models.config import ModelConfig, check_dtype
from cd4lm_jax.models.quantization import Mode, check_mode
from cd4lm_jax.runtime import files
from cd4lm_jax.runtime.progress import Progress

_BEGUN_FILE = "conversion.json"


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    quantize: Mode = "none",
    diffusion: Diffusion | None = None,
    shard_bytes: int = 5_000_000_000,
    verify: bool = True,
    quiet: bool = True,
) -> ModelConfig:
    """Writes the model of one layout as a folder of the other, or a diffusion model made of it.

    Quantised, it is always a folder of our own layout: published ones have no form for that.

    Every tensor's name, shape and type is checked before anything is written. A call that was
    interrupted is continued by the same call.

    Args:
        source: a model folder, of which tokenizer, generation settings, modelling code and other
            side files are copied; or a GGUF file.
        target: appears when it is complete; must not hold anything yet.
        dtype: what parameters are stored in; None: as in the source. Quantised kernels have
            dtypes of their own.
        quantize: what kernels are quantised to, see `cd4lm_jax.models.quantization`.
        diffusion: makes a diffusion model of a published one, which may be autoregressive: it
            gets a mask token where it has none, and its tokenizer too.
        shard_bytes: most bytes of tensors in a file of the Hugging Face layout, unless one tensor
            alone is larger.
        verify: compare the source's files with their checksums, where there are some.
        quiet: show no progress.

    Returns:
        The model's architecture.

    Raises:
        ValueError: no model in `source`, one that cannot be expressed in the other layout, a
            `target` that is in use, or one begun from something else.
        OSError: the disk is full; what is done is kept for the next call.
    """
    if dtype is not None:
        check_dtype(dtype, "dtype")
    check_mode(quantize)
    source, target = pathlib.Path(source), pathlib.Path(target).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConversionError(
            f"{target} is not empty; give a folder that is, or one that does not exist"
        )
    if peft.lies_in(source):
        raise ConversionError(
            f"{source} has peft adapters, which a conversion would leave out; merge them with peft "
            "(merge_and_unload, then save_pretrained), or move adapter_* elsewhere to convert the "
            "base alone"
        )
    published = gguf_files.is_gguf(source) or huggingface.is_checkpoint(source)
    if diffusion is not None and not published:
        raise ConversionError(
            f"{source} is a folder of this project; a diffusion model is made of a published "
            "folder or a GGUF file, give that"
        )
    job: ToOwn | ToHuggingFace
    if published or quantize != "none":
        job = ToOwn(source, dtype, quantize, diffusion, verify)
    else:
        job = ToHuggingFace(source, dtype, shard_bytes, verify)
    with (
        _unfinished(target, job.begun) as folder,
        Progress(len(job.tensors), label="convert", unit="tensor", quiet=quiet) as progress,
    ):
        job.write(folder, progress)
    return job.config


@contextlib.contextmanager
def _unfinished(target: pathlib.Path, begun: dict[str, Any]) -> Iterator[pathlib.Path]:
    """A folder beside `target`, of an earlier call or new, which becomes it in the end."""
    folder = target.with_name(f"{target.name}.unfinished")
    with files.locked(folder):
        if not any(file.name != files.LOCK_FILE for file in folder.iterdir()):
            files.write_text(folder / _BEGUN_FILE, json.dumps(begun))
        elif _read(folder / _BEGUN_FILE) != begun:
            raise ConversionError(
                f"{folder} was begun from another source or with other settings; repeat those, or "
                "delete it to begin anew"
            )
        yield folder
        files.flush_tree(folder)
        os.replace(folder, target)
        for name in (_BEGUN_FILE, files.LOCK_FILE):
            (target / name).unlink()


def _read(note: pathlib.Path) -> Any:
    try:
        return json.loads(note.read_text())
    except (OSError, ValueError):
        return None
