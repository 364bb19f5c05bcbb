"""What the commands that train share: their flags, the run, the line at its end."""

from __future__ import annotations

import pathlib
import re

import jax
from absl import flags

from cd4lm_jax.checkpoints.loading import load_config
from cd4lm_jax.commands import architecture, common, compilation, dry_run, hosts
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.trainer import train
from cd4lm_jax.runtime import cluster, devices
from cd4lm_jax.runtime.mesh import make_mesh

COMPILED_FOLDER = "compiled"

DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Print what would be run and how each array is split over the mesh, and stop. Needs no weights "
    "(see --model) and no devices: --config.mesh.fsdp=16 works on any machine.",
)
_PROFILE = flags.DEFINE_string(
    "profile_steps",
    None,
    "Steps to trace, such as 10:15, both included; the trace goes to OUTPUT/profile.",
)


def run(config: TrainConfig) -> None:
    """Trains, on this host or as one of a cluster, and prints where the model is.

    With `--dry_run` it prints what would be done instead.
    """
    profile = profiled_steps(config)
    if architecture.MODEL.value is not None and not DRY_RUN.value:
        raise common.UsageError("--model is for --dry_run; a run trains what config.init holds")
    with cluster.joined(hosts.described()):
        found = devices.available()
        if DRY_RUN.value:
            if cluster.is_main():
                model = architecture.chosen(config)
                print(dry_run.report(config, model, devices=len(found)))
            return
        # Before jax compiles anything: afterwards it looks at the setting no more.
        several = jax.process_count() > 1
        compilation.keep(pathlib.Path(config.output) / COMPILED_FOLDER if several else None)
        model = config.model or load_config(config.init or "")
        devices.announce(
            dtype=config.execution.dtype,
            parameters=model.num_parameters,
            mesh=make_mesh(config.mesh, found),
        )
        result = train(config, profile=profile)
        if cluster.is_main():
            judged = result.exported_decodes or f"validation loss {result.exported_loss:.4f}"
            print(f"{judged} at step {result.exported_step}: {result.folder}")


def profiled_steps(config: TrainConfig) -> range:
    """The steps that `--profile_steps` names.

    Raises:
        UsageError: no such steps.
    """
    if _PROFILE.value is None:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", _PROFILE.value)
    first, last = map(int, match.groups()) if match else (0, 0)
    if not 1 <= first <= last <= config.steps:
        raise common.UsageError(
            f"profile_steps={_PROFILE.value}; give FIRST:LAST, such as 10:15, of the run's steps 1 "
            f"to {config.steps}"
        )
    return range(first, last + 1)
