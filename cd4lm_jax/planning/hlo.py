"""HLO text as instructions, and how often its loops run."""

from __future__ import annotations

import dataclasses
import re

_COMPUTATION = re.compile(r"(ENTRY )?%(\S+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%(\S+) = (.*)$")
_OPCODE = re.compile(r" ([a-z][a-z0-9-]*)\(")
NAME = re.compile(r"%([^\s,(){}]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: without the percent sign.
        type: of the result, as written.
        opcode: such as `dot`.
        operands: names, or the value of a constant.
        rest: what follows the operands: attributes, metadata, backend_config.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    rest: str

    def attribute(self, name: str) -> str | None:
        """The text of an attribute, None where the instruction has no such one."""
        found = re.search(rf"\b{name}=(\{{.*?\}}|[^\s,]+)", self.rest)
        return found and found[1]

    @property
    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Element type and dimensions of each array of the result."""
        found = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", self.type)
        return [(kind, tuple(int(n) for n in dims.split(",") if n)) for kind, dims in found]

    @property
    def constant(self) -> int | None:
        """The value of an integer constant, None for anything else."""
        found = re.match(r"-?\d+", self.operands[0]) if self.opcode == "constant" else None
        return found and int(found[0])


class Program:
    """A program.

    Attributes:
        computations: by name, each its instructions by name.
        roots: the last instruction of each computation.
        entry: name of the computation that the program runs.
    """

    def __init__(self, text: str) -> None:
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.roots: dict[str, Instruction] = {}
        body: dict[str, Instruction] = {}
        name = ""
        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                name = header[2]
                body = self.computations[name] = {}
                if header[1]:
                    self.entry = name
            elif found := _INSTRUCTION.match(line):
                instruction = body[found[1]] = _parse(found[1], found[2])
                if line.lstrip().startswith("ROOT"):
                    self.roots[name] = instruction

    def trips(self, computation: str, loop: Instruction) -> float | None:
        """How often a loop runs; None where that depends on data."""
        if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
            return float(noted[1])
        condition, body = (
            (loop.attribute(part) or "").lstrip("%") for part in ("condition", "body")
        )
        test = self.roots[condition]
        if test.opcode != "compare" or test.attribute("direction") != "LT":
            return None
        inside = self.computations[condition]
        counter, bound = (inside[name] for name in test.operands)
        last = bound.constant
        if counter.opcode != "get-tuple-element" or last is None:
            return None
        place = int(counter.attribute("index") or 0)
        first = self._constant(computation, self._element(computation, loop.operands[0], place))
        step = 1
        after = self.computations[body].get(self._element(body, self.roots[body].name, place))
        if after is not None and after.opcode == "add":
            known = [self._constant(body, name) for name in after.operands]
            step = next((value for value in known if value), 1)
        return float(-(-(last - (first or 0)) // step))

    def _element(self, computation: str, name: str, place: int) -> str:
        """The instruction that is one element of a tuple."""
        made = self.computations[computation][name]
        return made.operands[place] if made.opcode == "tuple" else name

    def _constant(self, computation: str, name: str) -> int | None:
        """The value of a scalar, found through copies."""
        made = self.computations[computation][name]
        while made.opcode in ("copy", "bitcast", "convert"):
            made = self.computations[computation][made.operands[0]]
        return made.constant

    def operands(self, computation: str, each: Instruction) -> list[tuple[str, tuple[int, ...]]]:
        """Element type and dimensions of each array among the operands of an instruction."""
        known = self.computations[computation]
        return [shape for name in each.operands if name in known for shape in known[name].shapes]


def _parse(name: str, text: str) -> Instruction:
    """An instruction from `type opcode(operands), attributes`."""
    opcode = _OPCODE.search(text)
    assert opcode is not None, text
    depth, start = 1, opcode.end()
    end = next(
        at
        for at in range(start, len(text))
        if not (depth := depth + (text[at] == "(") - (text[at] == ")"))
    )
    inside = text[start:end]
    operands = tuple(NAME.findall(inside)) or (inside,)
    return Instruction(name, text[: opcode.start()], opcode[1], operands, text[end + 1 :])
