r"""Converts a model between a Hugging Face layout and this project's.

    cd4lm convert --source=checkpoints/LLaDA-8B-Instruct --target=checkpoints/llada_8b

The layout of the source decides the direction. Parameters keep their dtype unless --dtype is given,
so that there and back again is bit-exact; tokenizer, generation settings and modelling code are
copied. The model is streamed: that takes less than 1 GiB of memory, whatever its size. Interrupted,
the same command continues from what it finds in TARGET.unfinished.
"""

from __future__ import annotations

from typing import NoReturn

from absl import flags

from cd4lm_jax.checkpoints import conversion, loading
from cd4lm_jax.commands import common, precision_flags

_SOURCE = flags.DEFINE_string("source", None, "Model folder to read.")
_TARGET = flags.DEFINE_string("target", None, "Folder to write; must not exist, or be empty.")


def main() -> None:
    """Converts and says what was written; the target appears only when it is complete."""
    source, target = common.given(_SOURCE), common.given(_TARGET)
    dtype = precision_flags.PRECISION.chosen().dtype
    config = conversion.convert(source, target, dtype=dtype, quiet=False)
    print(f"{config.num_parameters:,} parameters, {loading.layout(target)} layout: {target}")


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main)
