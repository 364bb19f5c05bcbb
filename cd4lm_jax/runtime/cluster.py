"""Several hosts as one run: start-up through `jax.distributed`, agreement, and who died.

On one host everything here is free: nothing is started and nothing is waited for.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def is_main() -> bool:
    """Whether this process writes what is written once: metrics, config, progress."""
    return jax.process_index() == 0


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
