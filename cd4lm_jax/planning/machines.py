"""The cheapest of the listed machines that a program fits.

Prices are dollars an hour of one chip, rented on demand, with its share of the host. They are
examples of 2025 (Google Cloud for TPUs and T4, AWS for A10G, Lambda for A100 with 40 GB, RunPod for
the other GPUs), noted from memory, and differ between providers by a factor of two and more: they
order the list, and whoever knows better gives prices of their own.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping

from cd4lm_jax.planning.plan import Plan
from cd4lm_jax.planning.topology import GPUS, TPUS, Topology
from cd4lm_jax.settings.choices import nearest

PRICES = {
    "t4": 0.35,
    "l4": 0.43,
    "rtx4090": 0.69,
    "a10g": 1.01,
    "v5e": 1.20,
    "a100-40gb": 1.29,
    "a100-80gb": 1.64,
    "v6e": 2.70,
    "h100": 2.99,
    "v4": 3.22,
    "h200": 3.99,
    "v5p": 4.20,
    "b200": 5.89,
}

GPU_COUNTS = (1, 2, 4, 8)
TPU_SHAPES = {
    "v5e": ("1x1", "2x2", "2x4", "4x4"),
    "v6e": ("1x1", "2x2", "2x4", "4x4"),
    "v4": ("2x2x1", "2x2x2"),
    "v5p": ("2x2x1", "2x2x2"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """Chips that one can rent.

    Attributes:
        topology: the chips.
        price: dollars an hour, of all of them.
    """

    topology: Topology
    price: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tried:
    """What came of a machine.

    Attributes:
        machine: which.
        plan: of the program on it; None where it cannot be split so.
        reason: why not.
    """

    machine: Machine
    plan: Plan | None
    reason: str = ""

    @property
    def fits(self) -> bool:
        """Whether the program runs there."""
        return self.plan is not None and self.plan.fits

    @property
    def dollars(self) -> float | None:
        """Of a whole training run, or of a million tokens decoded at one a pass."""
        if self.plan is None or not self.plan.seconds:
            return None
        hours = self.plan.seconds / 3600
        runs = self.plan.runs or 1e6 / self.plan.tokens
        return self.machine.price * hours * runs


def listed(prices: Mapping[str, float] | None = None) -> list[Machine]:
    """The machines, the cheapest first; TPU slices only where their compiler is installed.

    Args:
        prices: of a chip an hour, in place of those of `PRICES`.

    Raises:
        ValueError: a price of no chip, or none that is above 0.
    """
    for name, price in (prices or {}).items():
        if name not in PRICES:
            raise ValueError(f"no chip {name!r} has a price; {nearest(name, list(PRICES))}")
        if not 0.0 < price < math.inf:
            raise ValueError(f"price {name}={price}; give dollars an hour, above 0")
    known = PRICES | dict(prices or {})
    machines = [
        Machine(topology=each, price=each.count * known[each.chip.name]) for each in _topologies()
    ]
    return sorted(machines, key=lambda machine: machine.price)


def _topologies() -> Iterator[Topology]:
    for name in GPUS:
        yield from (Topology.gpu(count, name) for count in GPU_COUNTS)
    if importlib.util.find_spec("libtpu") is not None:
        for name in TPUS:
            yield from (Topology.tpu(f"{name}:{shape}") for shape in TPU_SHAPES[name])


def search(
    machines: list[Machine],
    plan: Callable[[Topology], Plan],
    report: Callable[[Tried], None],
) -> list[Tried]:
    """Tries one after the other until the program fits.

    Args:
        machines: in the order to try them.
        plan: compiles the program for a topology; of several chips its ValueError says why it
            cannot be split so.
        report: called with each outcome.

    Returns:
        All that were tried; only the last may fit.

    Raises:
        ValueError: that of `plan`, for a single chip.
    """
    compiled: dict[int, Plan | ValueError] = {}
    tried: list[Tried] = []
    for machine in machines:
        topology = machine.topology
        # For so many GPUs of any kind the same program is compiled.
        found = compiled.get(topology.count) if topology.shape is None else None
        if found is None:
            try:
                found = plan(topology)
            except ValueError as error:
                if topology.count == 1:
                    raise  # not for want of a way to split it
                found = error
            if topology.shape is None:
                compiled[topology.count] = found
        if isinstance(found, Plan):
            here = dataclasses.replace(found, topology=topology)
            tried.append(Tried(machine=machine, plan=here))
        else:
            tried.append(Tried(machine=machine, plan=None, reason=str(found)))
        report(tried[-1])
        if tried[-1].fits:
            break
    return tried
