"""Reading the text of a compiled program: its computations and instructions, sizes of arrays, and trips of loops."""

import math
import re
from typing import NamedTuple

_LEAF = re.compile(r"([a-z]\w*)\[([\d,<= ]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_BRACKET = re.compile(r"[()]")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|branch_computations|true_computation|false_computation)=")


class Array(NamedTuple):
    """An array as the device lays it out."""

    size: float  # bytes, without padding
    stored: float  # bytes in the main memory, padded to tiles; 0 if it lies elsewhere


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    results: tuple[Array, ...]  # one, or the parts of a tuple
    opcode: str
    operands: tuple[str, ...]  # names
    inside: str  # what stands between the brackets: the value of a constant, the number of a parameter
    attributes: str


class Computation(NamedTuple):
    """A named list of instructions in the order of execution."""

    instructions: dict[str, Instruction]
    root: str


class Module(NamedTuple):
    """A program."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """Read the text of a program, as `compiled.as_text()` gives it.

    Args:
      text: one HLO module with layouts.

    Returns:
      Its computations.

    Raises:
      ValueError: if there is no entry computation.
    """
    computations, entry, name = {}, "", ""
    body: dict[str, Instruction] = {}
    root = ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            head = line.removeprefix("ENTRY ")
            name, body, root = head.split(" ", 1)[0].lstrip("%"), {}, ""
            entry = name if head is not line else entry
        elif line.startswith("}"):
            computations[name] = Computation(body, root)
        elif line.startswith(" ") and " = " in line:
            instruction = _instruction(line)
            body[instruction.name] = instruction
            root = instruction.name if line.lstrip().startswith("ROOT ") else root
    if not entry:
        raise ValueError("the text has no ENTRY computation: give what compiled.as_text() returns")
    return Module(computations, entry)


def trip_count(module: Module, around: Computation, loop: Instruction) -> int | None:
    """How often a loop runs, or None where only the run decides.

    Args:
      module: the program.
      around: the computation in which the loop stands.
      loop: an instruction with the opcode "while".

    Returns:
      What the compiler noted; else, of a condition `counter < constant` or `<=`, with a counter that starts at a
      constant and rises by one, the number of its values.
    """
    noted = re.search(r'"?known_trip_count"?:\s*\{\s*"?n"?:\s*"?(\d+)', loop.attributes)
    if noted:
        return int(noted[1])
    names = called(loop.attributes)
    condition, body = (module.computations[names[kind][0]] for kind in ("condition", "body"))
    compare = condition.instructions[condition.root]
    if compare.opcode != "compare" or "direction=L" not in compare.attributes:
        return None
    counter, bound = (condition.instructions[name] for name in compare.operands)
    place = _place(counter)
    before = _element(around, loop.operands[0], place)
    after = _element(body, body.root, place)
    limit, start = _constant(bound), _constant(before)
    if place is None or limit is None or start is None or after is None or not _one_more(body, after, place):
        return None
    return max(0, limit - start + ("direction=LE" in compare.attributes))


def _place(instruction: Instruction) -> int | None:
    found = re.search(r"index=(\d+)", instruction.attributes)
    return int(found[1]) if instruction.opcode == "get-tuple-element" and found else None


def _element(around: Computation, name: str, place: int | None) -> Instruction | None:
    """Element number `place` of a tuple that is written out, seen through copies."""
    one = around.instructions[name]
    if place is None or one.opcode != "tuple":
        return None
    return _source(around, one.operands[place])


def _source(around: Computation, name: str) -> Instruction:
    """An instruction seen through copies."""
    one = around.instructions[name]
    while one.opcode in ("copy", "bitcast"):
        one = around.instructions[one.operands[0]]
    return one


def _constant(instruction: Instruction | None) -> int | None:
    if instruction is None or instruction.opcode != "constant" or not re.fullmatch(r"-?\d+", instruction.inside):
        return None
    return int(instruction.inside)


def _one_more(body: Computation, after: Instruction, place: int) -> bool:
    if after.opcode != "add":
        # A fused addition has the counter as its operand; what else it could be would not be compared with a constant.
        return after.opcode == "fusion" and any(_place(body.instructions[name]) == place for name in after.operands)
    terms = [_source(body, name) for name in after.operands]
    return {_place(one) for one in terms} >= {place} and 1 in {_constant(one) for one in terms}


def called(attributes: str) -> dict[str, list[str]]:
    """The computations that an instruction names, by the attribute that names them.

    >>> called("condition=%c, body=%b")
    {'condition': ['c'], 'body': ['b']}
    """
    found = {}
    for match in _CALLED.finditer(attributes):
        rest = attributes[match.end() :]
        end = rest.index("}") if rest.startswith("{") else re.match(r"%?[\w.\-]+", rest).end()  # type: ignore[union-attr]
        found[match[1]] = [name.strip().lstrip("%") for name in rest[:end].strip("{}").split(",")]
    return found


def _instruction(line: str) -> Instruction:
    name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    close = _closing(rest, start)
    inside = rest[start + 1 : close]
    results = tuple(_array(*match.groups()) for match in _LEAF.finditer(shape))
    operands = tuple(_NAME.findall(inside))
    return Instruction(name.lstrip("%"), results, rest[:start], operands, inside, rest[close + 1 :])


def _closing(text: str, start: int) -> int:
    depth = 0
    for match in _BRACKET.finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    raise ValueError(f"brackets do not close in {text[:60]!r}: give whole lines")


def _array(dtype: str, dims: str, order: str | None, layout: str | None) -> Array:
    shape = [int(re.sub(r"\D", "", dim)) for dim in dims.split(",") if dim.strip()]
    bits = re.search(r"\d+", dtype)
    width = 1.0 if dtype == "pred" else (int(bits[0]) / 8 if bits else 0.0)
    size = width * math.prod(shape)
    if layout and re.search(r"S\([1-9]", layout):
        return Array(size, 0.0)
    tile = re.search(r"T\(([\d,]+)\)", layout or "")
    if not tile or (shape and not order):
        return Array(size, size)
    minor = [shape[int(axis)] for axis in order.split(",")] if order else []
    sides = [int(side) for side in tile[1].split(",")][::-1]  # the minor one first
    minor += [1] * (len(sides) - len(minor))
    padded = [-(-length // side) * side for length, side in zip(minor, sides, strict=False)] + minor[len(sides) :]
    return Array(size, width * math.prod(padded))
