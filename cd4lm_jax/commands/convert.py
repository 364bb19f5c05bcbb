r"""Converts a model between a Hugging Face layout and this project's.

    cd4lm convert --source=checkpoints/LLaDA-8B-Instruct --target=checkpoints/llada_8b
    cd4lm convert --source=checkpoints/LLaDA-8B-Instruct --target=checkpoints/llada_8b_int8 \
        --quantize=int8
    cd4lm convert --source=checkpoints/Qwen3-0.6B --target=checkpoints/qwen3_block \
        --diffusion=block --block_length=32

The layout of the source decides the direction. Parameters keep their dtype unless --dtype is given,
so that there and back again is bit-exact; tokenizer, generation settings and modelling code are
copied. The model is streamed: that takes less than 2 GiB of memory, whatever its size. Interrupted,
the same command continues from what it finds in TARGET.unfinished.

With --quantize the target is of this project's layout, whatever the source: half or a quarter of
the size, and every command loads it as it loads the others.

With --diffusion a diffusion model is made of an autoregressive one (Llama, Qwen2, Qwen3; a folder
or a GGUF file): it gets a mask token where it has none, and attends as is asked. It is to be
trained before it answers well.
"""

from __future__ import annotations

from typing import Literal, NoReturn, cast

from absl import flags

from cd4lm_jax.checkpoints import conversion, loading
from cd4lm_jax.checkpoints.diffusion import Diffusion
from cd4lm_jax.commands import common, precision_flags
from cd4lm_jax.models.config import Alignment

_SOURCE = flags.DEFINE_string("source", None, "Model folder to read.")
_TARGET = flags.DEFINE_string("target", None, "Folder to write; must not exist, or be empty.")
_DIFFUSION = flags.DEFINE_enum(
    "diffusion", None, ["block", "full"], "Make a diffusion model that attends so."
)
_BLOCK_LENGTH = flags.DEFINE_integer(
    "block_length",
    None,
    "Positions of a block; default 32 with --diffusion=block.",
    lower_bound=1,
    allow_override=True,  # tools that import all commands meet the decode's flag of this name
)
_ALIGNMENT = flags.DEFINE_enum(
    "alignment",
    None,
    ["shifted", "same"],
    "With --diffusion: logits at i predict token i + 1, as they do now (default), or token i.",
)


def main() -> None:
    """Converts and says what was written; the target appears only when it is complete."""
    source, target = common.given(_SOURCE), common.given(_TARGET)
    chosen = precision_flags.PRECISION.chosen()
    config = conversion.convert(
        source,
        target,
        dtype=chosen.dtype,
        quantize=chosen.quantize,
        diffusion=_diffusion(),
        quiet=False,
    )
    print(f"{config.num_parameters:,} parameters, {loading.layout(target)} layout: {target}")


def _diffusion() -> Diffusion | None:
    """What the flags ask for.

    Raises:
        UsageError: settings of a diffusion model, and none is to be made.
    """
    if _DIFFUSION.value is None:
        for flag in (_BLOCK_LENGTH, _ALIGNMENT):
            if flag.value is not None:
                raise common.UsageError(
                    f"--{flag.name} describes a diffusion model; give --diffusion=block or full too"
                )
        return None
    length = _BLOCK_LENGTH.value or (32 if _DIFFUSION.value == "block" else 0)
    return Diffusion(
        attention=cast(Literal["block", "full"], _DIFFUSION.value),
        block_length=length,
        alignment=cast(Alignment, _ALIGNMENT.value or "shifted"),
    )


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main)
