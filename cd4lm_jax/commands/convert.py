r"""Converts a model between a Hugging Face layout and this project's.

    cd4lm convert --source=checkpoints/LLaDA-8B-Instruct --target=checkpoints/llada_8b
    cd4lm convert --source=checkpoints/LLaDA-8B-Instruct --target=checkpoints/llada_8b_int8 \
        --quantize=int8

The layout of the source decides the direction. Parameters keep their dtype unless --dtype is given,
so that there and back again is bit-exact; tokenizer, generation settings and modelling code are
copied. With --quantize the target is of this project's layout, whatever the source: half or a
quarter of the size, and every command loads it as it loads the others. The model is streamed: that
takes less than 2 GiB of memory, whatever its size. Interrupted, the same command continues from
what it finds in TARGET.unfinished.
"""

from __future__ import annotations

from typing import NoReturn

from absl import flags

from cd4lm_jax.checkpoints import conversion, loading
from cd4lm_jax.commands import common
from cd4lm_jax.models.quantization import MODES

_SOURCE = flags.DEFINE_string("source", None, "Model folder to read.")
_TARGET = flags.DEFINE_string("target", None, "Folder to write; must not exist, or be empty.")
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "What parameters are stored in; default: as they are."
)
_QUANTIZE = flags.DEFINE_enum(
    "quantize", "none", MODES, "Kernels in 8 or 4 bits; the target is then of our own layout."
)


def main() -> None:
    """Converts and says what was written; the target appears only when it is complete."""
    source, target = common.given(_SOURCE), common.given(_TARGET)
    config = conversion.convert(
        source, target, dtype=_DTYPE.value, quantize=_QUANTIZE.value, quiet=False
    )
    print(f"{config.num_parameters:,} parameters, {loading.layout(target)} layout: {target}")


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main)
