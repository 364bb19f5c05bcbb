"""Several hosts as one run: start-up through `jax.distributed`, agreement, and who died.

On one host everything here is free: nothing is started and nothing is waited for.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import itertools
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cd4lm_jax.runtime import files
from cd4lm_jax.runtime.interrupt import Interrupted

BEAT_SECONDS = 1.0
_BEATS, _FAILED = "cd4lm_jax/beat/", "cd4lm_jax/failed/"
# How messages of XLA's runtime begin, such as gloo's "UNKNOWN: ... Connection closed by peer".
_STATUS = re.compile(
    r"(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED|DATA_LOSS|"
    r"FAILED_PRECONDITION)\b"
)
_abandoned = False
_meetings = itertools.count()
_WEEK_MS = 7 * 24 * 3600 * 1000


class ClusterError(ValueError):
    """The settings of a cluster are wrong; one line."""


class UnreachableError(ClusterError):
    """The other hosts cannot be reached.

    Attributes:
        exit_code: of a command; they may be reached at the next start.
    """

    exit_code = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """How this process finds the others; what is None is found in the environment.

    Slurm, Kubernetes (with the `kubernetes` package) and Cloud TPU provide all of it.

    Attributes:
        coordinator_address: `host:port` of process 0, the port a free one.
        num_processes: processes in all; 1 starts nothing, whatever the environment says.
        process_id: this one's number, from 0.
        local_device_ids: the devices of this host that this process takes.
        timeout: seconds without a sign of life after which a host counts as dead, and all others
            end.
    """

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: tuple[int, ...] | None = None
    timeout: int = 60

    def __post_init__(self) -> None:
        if self.timeout < 5 * BEAT_SECONDS:
            raise ClusterError(f"timeout={self.timeout} s; give 5 or more, a slow host is not dead")


@contextlib.contextmanager
def joined(config: ClusterConfig = ClusterConfig()) -> Iterator[None]:
    """Within it this process is one of a cluster, if the settings say so or it runs in one.

    To be entered before jax has looked for devices. A host that dies, hangs up or fails ends the
    others: within the timeout each says in one line which it was and exits with 1. After an
    error the process must end with `leave`.

    Raises:
        ClusterError: the settings do not fit each other.
        UnreachableError: the others cannot be reached.
    """
    if not _start(config):
        yield
        return
    watch = _Watch(config.timeout)
    watch.start()
    try:
        yield
    except (Interrupted, SystemExit):
        watch.stop()  # all hosts agreed to stop
        jax.distributed.shutdown()
        raise
    except BaseException as error:
        global _abandoned
        _abandoned = True
        if _STATUS.match(str(error)):
            # A broken connection, of which the watch will know more, in words that say whose.
            time.sleep(config.timeout + 3 * BEAT_SECONDS)
        watch.report(str(error) or type(error).__name__)
        if not isinstance(error, ValueError | OSError | KeyboardInterrupt):
            traceback.print_exc()
            leave(1)
        raise
    watch.stop()
    jax.distributed.shutdown()


def tasks_of_node() -> int | None:
    """How many tasks of this Slurm step run on this node; None outside Slurm."""
    try:
        groups = os.environ["SLURM_STEP_TASKS_PER_NODE"].split(",")  # such as 2(x3),1
        node = int(os.environ["SLURM_NODEID"])
    except KeyError:
        return None
    counts: list[int] = []
    for group in groups:
        tasks, _, nodes = group.rstrip(")").partition("(x")
        counts += [int(tasks)] * int(nodes or 1)
    return counts[node]


def leave(code: int) -> NoReturn:
    """Exits; after a failure on a cluster without waiting for the others, who cannot come."""
    if _abandoned:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def is_main() -> bool:
    """Whether this process writes what is written once: metrics, config, progress."""
    return jax.process_index() == 0


def meet(what: str) -> None:
    """Returns when every host has come here, however long that takes; no device takes part."""
    if jax.process_count() > 1:
        from jax._src import distributed  # see `_Watch`

        place = f"cd4lm_jax/meeting/{next(_meetings)}/{what}"
        distributed.global_state.client.wait_at_barrier(place, timeout_in_ms=_WEEK_MS)  # type: ignore[union-attr]


@contextlib.contextmanager
def held(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Holds a folder for this run: the main process locks it, the others wait until it has.

    Raises:
        InUseError: another run holds it.
    """
    with files.locked(folder) if is_main() else contextlib.nullcontext():
        meet("folder held")
        yield


def wait_for_all(what: str) -> None:
    """Returns when every host has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def from_main(text: str | None) -> str:
    """The text that the main process gives, on every host; the others give None."""
    if jax.process_count() == 1:
        assert text is not None
        return text
    buffer = np.zeros(4096, np.uint8)  # longer than any path
    data = np.frombuffer((text or "").encode(), np.uint8)
    buffer[: len(data)] = data
    return bytes(multihost_utils.broadcast_one_to_all(buffer)).rstrip(b"\0").decode()


class Agreement:
    """A number that the hosts agree on once a step: the greatest of what each of them says.

    The question travels with the devices' other work, so nobody waits for the answer: all
    hosts read it at the end of the step at whose start it was asked.
    """

    def __init__(self, says: Callable[[], int], mesh: Mesh) -> None:
        """Prepares the question.

        Args:
            says: what this host has to say, 0 or more.
            mesh: the devices of all hosts.
        """
        self._says = says
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._greatest = jax.jit(jnp.max)
        self._answer: jax.Array | None = None

    def ask(self) -> None:
        """Sends what this host says now."""
        if jax.process_count() > 1:
            said = np.full(self._sharding.mesh.size, self._says(), np.int32)
            votes = jax.make_array_from_callback(said.shape, self._sharding, said.__getitem__)
            self._answer = self._greatest(votes)

    def answer(self) -> int:
        """What all hosts agreed on; on one host what it says at this moment."""
        return self._says() if self._answer is None else int(self._answer)


def _start(config: ClusterConfig) -> bool:
    """Joins the cluster there is; False on one host."""
    if config.num_processes == 1:
        return False
    given: dict[str, Any] = {
        "coordinator_address": config.coordinator_address,
        "num_processes": config.num_processes,
        "process_id": config.process_id,
        "local_device_ids": config.local_device_ids,
    }
    # jax's own handling of SIGTERM, which would take the signal away from ours.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **given,
            # The watch speaks first; this is for when process 0, which it asks, has vanished.
            heartbeat_timeout_seconds=2 * config.timeout,
            shutdown_timeout_seconds=2 * config.timeout,
        )
        # jax gives each task of Slurm one GPU. A task that is alone on its node takes all of them.
        if config.local_device_ids is None and tasks_of_node() == 1:
            jax.config.update("jax_cuda_visible_devices", "all")
            jax.config.update("jax_rocm_visible_devices", "all")
    except (ValueError, TypeError, RuntimeError) as error:
        # The second: jax is in use already, as in a notebook, which is no host of a cluster.
        reasons = ("coordinator_address should be defined", "must be called before any JAX")
        alone = any(reason in str(error) for reason in reasons)
        if alone and all(value is None for value in given.values()):
            return False
        unreachable = isinstance(error, RuntimeError)
        raise (UnreachableError if unreachable else ClusterError)(
            f"cannot join a cluster: {str(error).splitlines()[0]} Give coordinator_address "
            "(host:port of process 0), num_processes and process_id, or num_processes=1 to run "
            "on this host alone"
        ) from error
    return True


def _set_abort_handler(handler: Any) -> Any:
    """Installs C's handler of SIGABRT; the one before."""
    install = ctypes.CDLL(None).signal
    install.argtypes, install.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    return install(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))


class _Watch:
    """Tells the other hosts that this one lives, and ends it when one of them does not."""

    def __init__(self, timeout: float) -> None:
        # The store that jax's processes share has no public name; orbax uses it by this one.
        from jax._src import distributed

        self._client: Any = distributed.global_state.client
        self._me = distributed.global_state.process_id
        self._address = distributed.global_state.coordinator_address
        self._timeout = timeout
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        # When process 0 is gone, jax calls abort(), which Python's handlers never see. Its own
        # `missed_heartbeat_callback` cannot be used: jaxlib 0.10 dies in it of std::bad_cast.
        self._on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: self._aborting())
        self._before = _set_abort_handler(self._on_abort)
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch; nobody counts as dead any more."""
        self._stopping.set()
        self._thread.join()
        _set_abort_handler(self._before)
        self._client.key_value_set(f"{_FAILED}{self._me}", "", allow_overwrite=True)

    def report(self, message: str) -> None:
        """Lets the other hosts end, with this reason."""
        self._stopping.set()
        line = message.splitlines()[0]
        self._client.key_value_set(f"{_FAILED}{self._me}", line, allow_overwrite=True)
        if self._me == 0:
            time.sleep(3 * BEAT_SECONDS)  # what the others read goes with this process

    def _run(self) -> None:
        seen: dict[str, tuple[str, float]] = {}
        beat = 0
        while not self._stopping.wait(BEAT_SECONDS):
            beat += 1
            try:
                self._client.key_value_set(f"{_BEATS}{self._me}", str(beat), allow_overwrite=True)
                beats = self._client.key_value_dir_get(_BEATS)
                failed = dict(self._client.key_value_dir_get(_FAILED))
            except Exception:
                self._lost_main()
            now = time.monotonic()
            for key, message in failed.items():
                if message and not self._stopping.is_set():
                    self._end(f"host {key.removeprefix(_FAILED)} failed: {message}")
            for key, value in beats:
                if seen.get(key, ("", 0.0))[0] != value:
                    seen[key] = value, now
                late = now - seen[key][1] > self._timeout
                host = key.removeprefix(_BEATS)
                if late and f"{_FAILED}{host}" not in failed and not self._stopping.is_set():
                    self._end(
                        f"host {host} died or cannot be reached: no sign of life for "
                        f"{self._timeout} s"
                    )

    def _aborting(self) -> None:
        """Explains an abort for want of process 0; any other ends the process as it would have."""
        host, _, port = str(self._address).rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
        except OSError:
            self._lost_main()

    def _lost_main(self) -> None:
        if not self._stopping.is_set():
            self._end("host 0, which holds the cluster together, died or cannot be reached")

    def _end(self, reason: str) -> NoReturn:
        print(
            f"error: {reason}; start the same command again, it continues",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)
