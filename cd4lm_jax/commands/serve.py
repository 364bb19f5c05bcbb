r"""Serves a model: the OpenAI API, and a page on which answers fill in as they are decoded.

    cd4lm serve
    cd4lm serve --checkpoint=DIR --port=8000 --batch_size=16 --rules=factor,fixed --caches=dual

Then http://127.0.0.1:8000 is the page, and http://127.0.0.1:8000/v1 what an OpenAI client takes as
`base_url`. The flags of a decode are those of requests that say nothing, and --batch_size, here 16
by default, is how many share a batch. A request may change threshold, bounds, budgets, temperature
and seed, and choose among the rules, caches and lengths that are enabled here. SIGTERM ends what is
in flight and leaves with 0. docs/serving.md says more.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import NoReturn

import cd4lm_jax as cd
from cd4lm_jax import bundled
from cd4lm_jax.checkpoints.loading import load_config
from cd4lm_jax.commands import (
    checkpoint,
    common,
    compilation,
    decode_flags,
    placement_flags,
)
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.models.placement import Placement
from cd4lm_jax.serving.settings import ServeConfig
from cd4lm_jax.settings import flags as derived

_SERVE = derived.define(ServeConfig, module=__name__)

SLOTS = 16
"""Rows decoded at once, where no flag says how many."""


def main() -> None:
    """Loads, compiles, serves until a signal stops it."""
    folder, decode, config = chosen()
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if not _found(name)]
    if missing:
        raise common.UsageError(
            f"serving needs {', '.join(missing)}; install them: pip install 'cd4lm_jax[serve]'"
        )
    from cd4lm_jax.serving.server import Server, log_to_stderr  # needs the extra `serve`

    compilation.keep()
    placement = placement_flags.chosen()
    _check_mesh(placement)
    base = checkpoint.BASE.value
    placement_flags.announce(folder, placement, base)
    server = Server(cd.load(folder, placement, base=base), decode, config, folder)
    log_to_stderr()
    server.listen()
    if config.warmup:
        server.warm(lambda line: print(line, file=sys.stderr, flush=True))
    host = f"[{config.host}]" if ":" in config.host else config.host
    where = f"http://{host}:{server.port}"
    server.run(lambda: print(f"serving {server.name} at {where}", flush=True))


def chosen() -> tuple[str, DecodeConfig, ServeConfig]:
    """The model's folder, the decode of requests that say nothing, and the limits.

    Raises:
        UsageError: values that are none, or do not fit each other.
    """
    given = checkpoint.CHECKPOINT.value
    folder = given or bundled.teacher()
    try:
        base = DecodeConfig.for_model(load_config(folder, checkpoint.BASE.value), batch_size=SLOTS)
        return folder, decode_flags.DECODE.chosen(base), _SERVE.chosen()
    except ValueError as error:
        raise common.UsageError(str(error)) from error


def _check_mesh(placement: Placement) -> None:
    """Raises UsageError where rows would be split: a segment may have a single one."""
    split = [axis for axis in ("data", "fsdp") if getattr(placement.mesh, axis) != 1]
    if split:
        raise common.UsageError(
            f"--mesh.{split[0]} splits rows, and a segment of a server may have a single one; give "
            "--mesh.tensor, or one server for each group of devices"
        )


def _found(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main)
