"""The flags with which a process finds the others of its run."""

from __future__ import annotations

from absl import flags

from cd4lm_jax.runtime import cluster

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


def described() -> cluster.ClusterConfig:
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
