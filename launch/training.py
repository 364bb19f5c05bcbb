"""What the commands that train share: the flags of a cluster, the run, what is said at its end."""

from __future__ import annotations

from absl import flags

from cd4lm_jax.distillation.trainer import TrainConfig, train
from cd4lm_jax.runtime import cluster

_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0; found by itself on a known cluster."
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
    """Trains, on this host or as one of a cluster, and says where the model is."""
    devices = _DEVICES.value
    if devices is not None and not all(device.isdecimal() for device in devices):
        raise ValueError(f"local_device_ids={','.join(devices)}; give numbers, such as 0,1")
    hosts = cluster.ClusterConfig(
        coordinator_address=_ADDRESS.value,
        num_processes=_PROCESSES.value,
        process_id=_PROCESS.value,
        local_device_ids=None if devices is None else tuple(map(int, devices)),
        timeout=_TIMEOUT.value,
    )
    with cluster.joined(hosts):
        result = train(config)
        if cluster.is_main():
            best = f"validation loss {result.best_loss:.4f} at step {result.best_step}"
            print(f"{best}: {result.folder}")
