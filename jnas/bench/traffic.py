"""What one execution of a compiled program does on one device: collectives, and bytes through memory.

The compiler's own analysis counts the body of a loop once. Here every instruction counts as often as the loops around
it run: as the compiler notes or the loop's condition says (`hlo.trip_count`), else as the caller assumes.

Bytes are those of the operands and results of every scheduled instruction, a fusion being one, in the layout of the
device: padded to whole tiles, and only of what lies in the main memory. Slices, gathers and updates count what they
touch. Counted so, with every loop once, the bytes of a search step for a TPU come out within 3 % of the compiler's.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jnas.bench.hlo import Computation, Instruction, Module, called, trip_count

KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip
_FREE = frozenset({
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id",
    "opt-barrier", "add-dependency", "domain",
})  # fmt: skip


class Collective(NamedTuple):
    """All collectives of one kind."""

    kind: str
    count: float  # executed
    written: int  # in the text
    bytes: float  # of the operands on one device, over all executions


class Totals(NamedTuple):
    """What one execution of a program does on one device."""

    collectives: tuple[Collective, ...] = ()
    bytes: float = 0.0
    cycles: float = 0.0  # that the compiler expects, where it notes them (TPU)
    assumed_loops: int = 0  # loops whose trips the caller assumed

    def repeated(self, times: float) -> "Totals":
        """Do it a number of times."""
        each = tuple(c._replace(count=c.count * times, bytes=c.bytes * times) for c in self.collectives)
        return Totals(each, self.bytes * times, self.cycles * times, self.assumed_loops)


NOTHING = Totals()


def totals(module: Module, *, trips: Sequence[float] = (1,)) -> Totals:
    """Add up a program, every instruction as often as it runs; of a conditional the branch with the most bytes.

    Args:
      module: from `hlo.parse`.
      trips: of loops that do not say how often they run: the first for outermost loops, the next for such loops inside
        those, the last for all below; a fraction is a mean.

    Returns:
      The totals.

    Raises:
      ValueError: if `trips` is empty.

    >>> from jnas.bench.hlo import parse
    >>> text = '''
    ... ENTRY %main (p: f32[8]) -> f32[8] {
    ...   %p = f32[8]{0} parameter(0)
    ...   ROOT %r = f32[8]{0} all-reduce(%p), replica_groups={}, to_apply=%add
    ... }'''
    >>> totals(parse(text)).collectives
    (Collective(kind='all-reduce', count=1.0, written=1, bytes=32.0),)
    """
    if not trips:
        raise ValueError("trips is empty: give at least one number, for the loops whose trips are unknown")

    @functools.cache
    def computation(name: str, trips: tuple[float, ...], fused: bool = False) -> Totals:
        around = module.computations[name]
        return _sum(one(around, instruction, trips, fused) for instruction in around.instructions.values())

    def one(around: Computation, instruction: Instruction, trips: tuple[float, ...], fused: bool) -> Totals:
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith(("-done", "-update")):
            return NOTHING
        if opcode == "while":
            body = called(instruction.attributes)["body"][0]
            times = trip_count(module, around, instruction)
            if times is not None:
                return computation(body, trips).repeated(times)
            total = computation(body, trips[1:] or trips)
            return total.repeated(trips[0])._replace(assumed_loops=total.assumed_loops + 1)
        if opcode == "conditional":
            branches = [name for names in called(instruction.attributes).values() for name in names]
            return max((computation(name, trips) for name in branches), key=lambda total: total.bytes)
        if opcode in ("call", "async-start"):
            return _sum(computation(name, trips, fused) for name in _callees(instruction))
        own = NOTHING if fused else Totals((), _bytes(module, around, instruction), _cycles(instruction))
        kind = opcode.removesuffix("-start")
        if kind in KINDS:
            size = sum(array.size for name in instruction.operands for array in around.instructions[name].results)
            return own._replace(collectives=(Collective(kind, 1.0, 1, size),))
        if opcode == "fusion":  # one pass through memory; a collective may stand inside
            return _sum([own, *(computation(name, trips, True) for name in _callees(instruction))])
        return own

    return computation(module.entry, tuple(trips))


def _sum(each: Iterable[Totals]) -> Totals:
    each = list(each)
    found: dict[str, Collective] = {}
    for kind, count, written, size in (collective for total in each for collective in total.collectives):
        before = found.get(kind, Collective(kind, 0.0, 0, 0.0))
        found[kind] = Collective(kind, before.count + count, before.written + written, before.bytes + size)
    return Totals(
        tuple(found.values()),
        sum(total.bytes for total in each),
        sum(total.cycles for total in each),
        sum(total.assumed_loops for total in each),
    )


def _callees(instruction: Instruction) -> list[str]:
    names = called(instruction.attributes)
    return names.get("calls") or names.get("to_apply") or []


def _cycles(one: Instruction) -> float:
    found = re.search(r'"estimated_cycles":"?(\d+)', one.attributes)
    return float(found[1]) if found else 0.0


def _bytes(module: Module, around: Computation, one: Instruction) -> float:
    """Through the main memory, by one instruction."""
    operands = [around.instructions[name] for name in one.operands if name in around.instructions]
    read = [sum(array.stored for array in operand.results) for operand in operands]
    written = [array.stored for array in one.results]
    if one.opcode.endswith("-start"):  # the result repeats the operand and holds marks
        moved = max((array.size for array in one.results[:1]), default=0.0)
        return min(sum(read), moved) + written[0]
    if one.opcode in ("dynamic-slice", "slice", "gather"):
        return min(read[0], sum(written) or sum(a.size for a in one.results)) + sum(written)
    if one.opcode in ("dynamic-update-slice", "scatter"):
        return 2 * min(read[-1] if one.opcode == "scatter" else read[1], written[0])
    if one.opcode == "fusion":
        inner = module.computations[called(one.attributes)["calls"][0]]
        return _fused_bytes(inner, read, sum(written))
    return sum(read) + sum(written)


def _fused_bytes(inner: Computation, read: list[float], written: float) -> float:
    users: dict[str, list[Instruction]] = {}
    for instruction in inner.instructions.values():
        for name in instruction.operands:
            users.setdefault(name, []).append(instruction)
    total = 0.0
    for instruction in inner.instructions.values():
        if instruction.opcode != "parameter":
            continue
        whole = read[int(instruction.inside)]
        touched = [_touched(inner, user, instruction.name) for user in users.get(instruction.name, [])]
        total += whole if None in touched else min(whole, sum(filter(None, touched)))
    root = inner.instructions[inner.root]
    if root.opcode == "dynamic-update-slice":  # in place
        written = min(written, sum(a.size for a in inner.instructions[root.operands[1]].results))
    return total + written


def _touched(inner: Computation, user: Instruction, name: str) -> float | None:
    """Bytes of an array that a user reads, or None for all."""
    if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
        return sum(array.size for array in user.results)
    if user.opcode == "dynamic-update-slice" and user.operands[0] == name and user.name == inner.root:
        return 0.0
    return None
