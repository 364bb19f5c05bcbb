"""One program compiled ahead of time for a topology: its bytes, FLOPs, traffic and time a chip.

Bytes of what a program is given are exact. Temporaries are the compiler's: on a TPU topology those
that the slice would reserve; for GPUs the same program is compiled for virtual CPU devices, whose
compiler fuses less and holds some bfloat16 buffers in float32, so they are an estimate.

Time has two estimates, side by side. The roofline: the greatest of FLOPs over the peak, of what the
program is given, read from memory once, and of bytes sent over the links. The compiler's: the sum
of its estimates of all kernels, loops counted as often as they run (on TPU; it leaves collectives
out, which overlap at best). XLA's `optimal_seconds` counts the body of a loop once, and is
negative for programs of this size: it is not used. Nothing was measured.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

from cd4lm_jax.planning.costs import Cost
from cd4lm_jax.planning.topology import GIB, Topology
from cd4lm_jax.runtime.mesh import MeshConfig

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a program needs of each chip, and how long a run of it takes.

    Attributes:
        program: `update` (a training step) or `pass` (of the decoding loop).
        topology: the chips.
        mesh: how they are used.
        settings: what else was chosen, for people to read.
        bytes_per_chip: by what they hold; `temporaries` as the compiler reserves them.
        tokens: that a run of the program works on, over all chips.
        runs: of the program in all; 0 where there is no such number.
        cost: on one chip; None where the compiler gave up for want of memory.
        refresh: of a pass in which a row is computed whole too, with a cache.
        exact: whether temporaries are those of the chip's own compiler.
    """

    program: str
    topology: Topology
    mesh: MeshConfig
    settings: Mapping[str, Any]
    bytes_per_chip: Mapping[str, float]
    tokens: int
    runs: int
    cost: Cost | None
    refresh: Cost | None = None
    exact: bool = True

    @property
    def total(self) -> float:
        """Bytes a chip needs."""
        return sum(self.bytes_per_chip.values())

    @property
    def spare(self) -> float:
        """Bytes a chip has left; below 0, those it lacks."""
        return self.topology.chip.memory - self.total

    @property
    def fits(self) -> bool:
        """Whether the program compiled and a chip has room for it."""
        return self.cost is not None and self.spare >= 0

    @property
    def roofline(self) -> dict[str, float]:
        """Least seconds of a run, by what bounds them."""
        return {} if self.cost is None else self._roofline(self.cost)

    def _roofline(self, cost: Cost) -> dict[str, float]:
        chip = self.topology.chip
        made = ("gradients", "temporaries")
        given = sum(size for name, size in self.bytes_per_chip.items() if name not in made)
        return {
            "compute": cost.flops / chip.flops,
            "memory": given / chip.bandwidth,
            "links": sum(cost.sent.values()) / chip.link,
        }

    def _by_compiler(self, cost: Cost) -> float | None:
        clock = self.topology.chip.clock
        return cost.cycles / clock if clock and cost.cycles else None

    def _seconds(self, cost: Cost) -> float:
        return max(*self._roofline(cost).values(), self._by_compiler(cost) or 0.0)

    @property
    def compiler_seconds(self) -> float | None:
        """A run's kernels by the compiler's estimate; None where it makes none."""
        return None if self.cost is None else self._by_compiler(self.cost)

    @property
    def seconds(self) -> float | None:
        """A run by the greater of compiler's estimate and roofline; None if it did not compile."""
        return None if self.cost is None else self._seconds(self.cost)

    @property
    def refresh_seconds(self) -> float | None:
        """The same of a pass in which a row is computed whole; None without a cache."""
        return None if self.refresh is None else self._seconds(self.refresh)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens a second, over all chips."""
        return self.tokens / self.seconds if self.seconds else None

    @property
    def days(self) -> float | None:
        """Of the whole run."""
        return self.runs * self.seconds / 86_400 if self.seconds and self.runs else None

    def metrics(self) -> dict[str, float]:
        """The numbers of a results file; what is not known is left out."""
        known: dict[str, float | None] = {
            "bytes_per_chip": self.total,
            "chip_memory": self.topology.chip.memory,
            "fits": self.fits,
            "flops_per_step": None if self.cost is None else self.cost.flops,
            "seconds_per_step_estimate": self.seconds,
            "seconds_per_step_compiler": self.compiler_seconds,
            "seconds_per_step_roofline": max(self.roofline.values()) if self.roofline else None,
            "seconds_per_refresh_estimate": self.refresh_seconds,
            "tokens_per_second": self.tokens_per_second,
            "days": self.days,
        }
        return {name: value for name, value in known.items() if value is not None}

    def details(self) -> dict[str, Any]:
        """What stands beside the numbers in a results file."""
        details: dict[str, Any] = {
            "program": self.program,
            "topology": str(self.topology),
            "chips": self.topology.count,
            "mesh": dataclasses.asdict(self.mesh),
            "settings": dict(self.settings),
            "bytes": dict(self.bytes_per_chip),
            "temporaries_by": "the chip's compiler" if self.exact else "the CPU's compiler",
        }
        if self.cost is not None:
            details["roofline_seconds"] = self.roofline
            details["bytes_sent"] = self.cost.sent
            details["collectives"] = counts(self.cost)
        return details


def counts(cost: Cost) -> dict[str, float]:
    """How often each kind of collective runs."""
    kinds: dict[str, float] = {}
    for each in cost.collectives:
        kinds[each.kind] = kinds.get(each.kind, 0.0) + each.times
    return kinds


def bytes_of(tree: Any) -> float:
    """Bytes that one device holds of a tree of shapes with shardings."""
    return float(
        sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(tree)
        )
    )


def gib(size: float) -> str:
    """Bytes, for people."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 100 else f"{size / 2**20:.2f} MiB"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the compiler says of a program.

    Attributes:
        temporaries: bytes reserved beside what it is given, its code included.
        costs: what was read from it; none if memory ran out.
    """

    temporaries: float
    costs: tuple[Cost, ...]


def compiled(lowered: Any, *, given: float, read: Callable[[str], tuple[Cost, ...]]) -> Compiled:
    """Compiles a program.

    Args:
        lowered: `jitted.lower(...)`.
        given: bytes a chip of its arguments, for when memory runs out.
        read: costs from the text of the compiled program.
    """
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _needed(str(error))
        if needed is None:
            raise
        return Compiled(temporaries=max(needed - given, 0.0), costs=())
    memory = program.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    padding = memory.argument_size_in_bytes - given  # the layout's
    own = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    return Compiled(temporaries=float(padding + results + own), costs=read(program.as_text()))


def _needed(message: str) -> float | None:
    """Bytes that the compiler asked for in vain; None if it failed for another reason."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    found = re.search(r"(?:Used |temporaries \()([\d.]+)([KMGT])", message)
    return float(found[1]) * _UNITS[found[2]] if found else math.inf
