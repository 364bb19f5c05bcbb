"""What a compiled program computes and sends, read from its HLO text.

XLA's own `cost_analysis` counts the body of a loop once. Here a loop counts as often as it runs:
its number of trips follows from its condition (a counter below a constant) or from what the
compiler noted; where it depends on data, the caller says how many. Of the branches of a
conditional the costliest counts.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Sequence

from cd4lm_jax.planning.hlo import NAME, Instruction, Program

_BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "f16": 2,
    "bf16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf"({_KINDS})(-start)?$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective of a program.

    Attributes:
        kind: `all-reduce`, `all-gather`, `reduce-scatter`, `all-to-all` or
            `collective-permute`.
        shapes: of its operands and results on one device.
        sent: bytes that one device sends each time, by ring algorithms.
        times: how often it runs.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    sent: float
    times: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one run of a program on one device.

    Attributes:
        flops: of its matrix products and convolutions, two a multiply-add.
        cycles: the compiler's own estimates of its kernels, added up; 0 where it makes none.
        collectives: one of each, with how often it runs.
    """

    flops: float = 0.0
    cycles: float = 0.0
    collectives: tuple[Collective, ...] = ()

    @property
    def sent(self) -> dict[str, float]:
        """Bytes that one device sends, by kind of collective."""
        kinds: dict[str, float] = {}
        for each in self.collectives:
            kinds[each.kind] = kinds.get(each.kind, 0.0) + each.sent * each.times
        return kinds


def cost(text: str, *, trips: Sequence[float] = (1.0,)) -> Cost:
    """The cost of a program.

    Args:
        text: `compiled.as_text()`.
        trips: of the loops whose number of trips depends on data, by how deep such a loop is in
            others of its kind, outermost first; the last serves all that are deeper.
    """
    return _Reading(Program(text)).cost(tuple(trips))


def pass_cost(text: str, *, trips: Sequence[float] = (1.0,)) -> Cost:
    """The cost of one pass of the outermost loop whose number of trips depends on data.

    Args:
        text: `compiled.as_text()` of a program with one such loop.
        trips: as for `cost`, of the loops within it.
    """
    program = Program(text)
    (body,) = (
        each.attribute("body")
        for each in program.computations[program.entry].values()
        if each.opcode == "while" and program.trips(program.entry, each) is None
    )
    assert body is not None
    return _Reading(program).cost(tuple(trips), body.lstrip("%"))


class _Reading:
    """The costs of the computations of one program, each computed once."""

    def __init__(self, program: Program) -> None:
        self._program = program
        # A cache on the method itself would keep every program that was ever read.
        self._cost = functools.cache(self._cost_once)

    def cost(self, trips: tuple[float, ...], computation: str | None = None) -> Cost:
        flops, cycles, collectives = self._cost(computation or self._program.entry, trips)
        return Cost(flops=flops, cycles=cycles, collectives=tuple(collectives.values()))

    def _cost_once(
        self, computation: str, trips: tuple[float, ...]
    ) -> tuple[float, float, dict[str, Collective]]:
        """FLOPs, cycles, and collectives by channel (a split one appears in several kernels)."""
        flops, cycles = 0.0, 0.0
        collectives: dict[str, Collective] = {}
        for name, each in self._program.computations[computation].items():
            if each.opcode in ("dot", "convolution"):
                flops += self._flops(computation, each)
            elif _COLLECTIVE.match(each.opcode):
                channel = each.attribute("channel_id") or name
                collectives[channel] = self._collective(computation, each)
            if estimate := re.search(r'"estimated_cycles":"(\d+)"', each.rest):
                cycles += float(estimate[1])
            inner, times = self._inner(computation, each, trips)
            if inner is None:
                continue
            inner_flops, inner_cycles, sent = inner
            flops += times * inner_flops
            # The kernel as a whole has an estimate; what it is made of is not counted again.
            cycles += times * inner_cycles if each.opcode != "fusion" else 0.0
            for channel, one in sent.items():
                if times:
                    one = dataclasses.replace(one, times=times * one.times)
                    known = collectives.get(channel, one)
                    collectives[channel] = max(known, one, key=lambda some: some.times)
        return flops, cycles, collectives

    def _inner(
        self, computation: str, each: Instruction, trips: tuple[float, ...]
    ) -> tuple[tuple[float, float, dict[str, Collective]] | None, float]:
        """What an instruction calls, and how often."""
        if each.opcode == "while":
            body, times = each.attribute("body"), self._program.trips(computation, each)
            assert body is not None
            inner = trips
            if times is None:
                times, inner = trips[0], trips[1:] or trips
            return self._cost(body.lstrip("%"), inner), times
        if each.opcode == "conditional":
            branches = NAME.findall(
                each.attribute("branch_computations")
                or f"{each.attribute('true_computation')} {each.attribute('false_computation')}"
            )
            costs = [self._cost(branch, trips) for branch in branches]
            return max(costs, key=lambda cost: (cost[0], cost[1])), 1.0
        if each.opcode in ("fusion", "call", "async-start"):
            called = each.attribute("calls") or each.attribute("to_apply")
            assert called is not None
            return self._cost(called.lstrip("%"), trips), 1.0
        return None, 0.0

    def _flops(self, computation: str, each: Instruction) -> float:
        ((_, result),) = each.shapes
        left, right = (shape for _, shape in self._program.operands(computation, each)[:2])
        if each.opcode == "dot":
            axes = re.findall(r"\d+", each.attribute("lhs_contracting_dims") or "")
            return 2.0 * math.prod(result) * math.prod(left[int(axis)] for axis in axes)
        labels = each.attribute("dim_labels")
        assert labels is not None
        of_left, of_right, of_result = re.split("_|->", labels)
        window = _window(each.attribute("window"), len(labels))
        total = 2.0 * result[of_result.index("b")] * result[of_result.index("f")]
        total *= right[of_right.index("i")]
        for axis in filter(str.isdigit, of_left):
            total *= _pairs(
                left[of_left.index(axis)],
                result[of_result.index(axis)],
                right[of_right.index(axis)],
                **window[int(axis)],
            )
        return total

    def _collective(self, computation: str, each: Instruction) -> Collective:
        found = _COLLECTIVE.match(each.opcode)
        assert found is not None
        kind, operands = found[1], self._program.operands(computation, each)
        size = sum(_BYTES[dtype] * math.prod(shape) for dtype, shape in operands)
        parts = 2
        if kind != "collective-permute":
            groups = re.search(r"replica_groups=(.*)", each.rest)
            assert groups is not None
            parts = group_size(groups[1])
        share = {
            "all-reduce": 2 * (parts - 1) / parts,
            "all-gather": parts - 1,
            "reduce-scatter": (parts - 1) / parts,
            "all-to-all": (parts - 1) / parts,
            "collective-permute": 1,
        }[kind]
        shapes = tuple(shape for _, shape in operands + each.shapes)
        return Collective(kind=kind, shapes=shapes, sent=share * size)


def group_size(groups: str) -> int:
    """Devices of one replica group, in each of the three ways that HLO writes groups down."""
    if listed := re.match(r"\{\{([\d,]+)\}", groups):  # {{0,1},{2,3}}
        return len(listed[1].split(","))
    if iota := re.match(r"\[\d+,(\d+)\]", groups):  # [2,2]<=[4]
        return int(iota[1])
    if named := re.match(r"mesh\[(.*?)\].*?\{('.*?)\}", groups):  # mesh['a'=2,'b'=4] {'b'}
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        # Of 'b':(1)2, a part of an axis, the last number is the size.
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    raise ValueError(f"unknown replica groups {groups!r}; this reader must learn them")


def _window(text: str | None, most: int) -> list[dict[str, int]]:
    """Stride, padding and dilations of each spatial dimension of a convolution."""
    fields = dict(re.findall(r"(\w+)=([\dx_-]+)", text or ""))
    known = {
        name: fields[name].split("x")
        for name in ("stride", "pad", "lhs_dilate", "rhs_dilate")
        if name in fields
    }
    return [
        {name: int(of[axis].split("_")[0]) for name, of in known.items() if axis < len(of)}
        for axis in range(most)
    ]


@functools.cache
def _pairs(
    left: int,
    result: int,
    window: int,
    *,
    stride: int = 1,
    pad: int = 0,
    lhs_dilate: int = 1,
    rhs_dilate: int = 1,
) -> int:
    """Products along one dimension of a convolution: what falls on padding or holes is none."""
    count = 0
    for out, tap in itertools.product(range(result), range(window)):
        at = out * stride + tap * rhs_dilate - pad
        count += 0 <= at <= (left - 1) * lhs_dilate and at % lhs_dilate == 0
    return count
