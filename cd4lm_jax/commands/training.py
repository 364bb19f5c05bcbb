"""What the commands that train share: the flags of a cluster, the run, the line at its end."""

from __future__ import annotations

import os
import pathlib
import re

import jax
from absl import flags

from cd4lm_jax.checkpoints.loading import load_config
from cd4lm_jax.commands import architecture, common, dry_run
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
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Folder of compiled programs, so that a restart begins sooner; 'none' for none. "
    f"Default: JAX_COMPILATION_CACHE_DIR, or on several hosts OUTPUT/{COMPILED_FOLDER}.",
)
_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0; found automatically on a known cluster."
)
_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Processes in all; 1 ignores any cluster.", lower_bound=1
)
_PROCESS = flags.DEFINE_integer("process_id", None, "This process's number.", lower_bound=0)
_DEVICES = flags.DEFINE_list(
    "local_device_ids", None, "Devices of this host that this process takes, such as 0,1."
)
_TIMEOUT = flags.DEFINE_integer(
    "host_timeout", 60, "Seconds of silence after which a host counts as dead.", lower_bound=5
)


def run(config: TrainConfig) -> None:
    """Trains, on this host or as one of a cluster, and prints where the model is.

    With `--dry_run` it prints what would be done instead.
    """
    profile = profiled_steps(config)
    if architecture.MODEL.value is not None and not DRY_RUN.value:
        raise common.UsageError("--model is for --dry_run; a run trains what config.init holds")
    with cluster.joined(hosts()):
        found = devices.available()
        if DRY_RUN.value:
            if cluster.is_main():
                model = architecture.chosen(config)
                print(dry_run.report(config, model, devices=len(found)))
            return
        keep_compiled(config)
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


def hosts() -> cluster.ClusterConfig:
    """How the flags describe the cluster.

    Raises:
        ValueError: devices that are no numbers.
    """
    ids = _DEVICES.value
    if ids is not None and not all(number.isdecimal() for number in ids):
        raise ValueError(f"local_device_ids={','.join(ids)}; give numbers, such as 0,1")
    return cluster.ClusterConfig(
        coordinator_address=_ADDRESS.value,
        num_processes=_PROCESSES.value,
        process_id=_PROCESS.value,
        local_device_ids=None if ids is None else tuple(map(int, ids)),
        timeout=_TIMEOUT.value,
    )


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


def keep_compiled(config: TrainConfig) -> None:
    """Sets the folder in which jax keeps compiled programs between starts of the run."""
    folder, setting = _CACHE.value, "jax_compilation_cache_dir"
    if folder is None and jax.process_count() > 1 and not getattr(jax.config, setting):
        folder = str(pathlib.Path(config.output) / COMPILED_FOLDER)
    if folder is not None:
        path = None if folder == "none" else os.path.abspath(folder)
        jax.config.update(setting, path)
