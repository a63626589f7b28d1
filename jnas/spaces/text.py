"""Names and strings: how a space is asked for, and how an architecture is written to a file and read back."""

import ast
import re
import warnings

import jax.numpy as jnp

from jnas.errors import UserError
from jnas.spaces.base import quoted
from jnas.spaces.cell import CellSpace, Decision, fix, place
from jnas.spaces.families.darts import Genotype, darts, from_genotype, has_genotype, s1, s2, s3, s4, to_genotype
from jnas.spaces.families.nasbench201 import from_bars, nasbench201, parse_branched, to_bars
from jnas.types import Array

_LONGEST = 3_000  # characters worth parsing: a genotype has about 500, and no literal this long overflows a message
_HIGHEST = 99  # number of a state; a range beyond it would be walked in vain


def by_name(name: str) -> CellSpace:
    """Finds a space by its name; case, hyphens and underscores do not count.

    >>> by_name("NAS-Bench-201").num_edges
    6

    Args:
      name: darts, nasbench201, s1, s2, s3, s4, or a generated one such as cell-3:none,skip_connect,nor_conv_3x3.

    Returns:
      The space.

    Raises:
      UserError: if there is none of that name.
    """
    if name.startswith("cell-"):
        return parse_branched(name)
    known = {space.name: space for space in (darts(), nasbench201(), s1(), s2(), s3(), s4())}
    space = known.get(re.sub("[-_ ]", "", name.lower()))
    if space is None:
        raise UserError(f"there is no space {quoted(name)}: choose one of {', '.join(known)}.")
    return space


def encode(space: CellSpace, found: CellSpace | Genotype) -> Array:
    """The architecture of a found network: the inverse of `fix` and of `to_genotype`.

    Args:
      space: the space to encode in; it may be narrower or wider than the one the network was found in.
      found: a fixed space over the same graph, or a genotype.

    Returns:
      `[num_choices]` int32.

    Raises:
      UserError: if the space does not hold that network; the sentence names the edge.
    """
    fixed = from_genotype(space, found) if isinstance(found, Genotype) else found
    same_graph = (fixed.cells, fixed.endpoints) == (space.cells, space.endpoints)
    if not (same_graph and fixed.is_fixed):
        raise UserError(f"{fixed.name!r} is no network over the cells of {space.name!r}: pass what fix returned.")
    placed = {
        cell: {row: edge.ops[0] for row, edge in enumerate(fixed.edges(cell)) if edge.ops} for cell in space.cells
    }
    decided = {(decision.cell, row) for decision in space.decisions for row in decision.candidates}
    for cell, rows in placed.items():
        for row, op in rows.items():
            if (cell, row) not in decided:
                raise UserError(_edge_error(space, cell, row, op, ()))
    return jnp.asarray([_option(space, decision, placed[decision.cell]) for decision in space.decisions], jnp.int32)


def _option(space: CellSpace, decision: Decision, placed: dict[int, str]) -> int:
    wanted = []
    for row, ops in decision.candidates.items():
        if row in placed and placed[row] not in ops:
            raise UserError(_edge_error(space, decision.cell, row, placed[row], ops))
        if row in placed:
            wanted.append((row, placed[row]))
    count = len(decision.placements[0])
    if len(wanted) != count:
        offered = [op for op in space.ops if any(op in ops for ops in decision.candidates.values())]
        raise UserError(
            f"{decision.choice.name!r} has {len(wanted)} operators: space {space.name!r} needs {count}, "
            f"of {', '.join(offered)}."
        )
    return decision.placements.index(tuple(wanted))


def _edge_error(space: CellSpace, cell: str, row: int, op: str, ops: tuple[str, ...]) -> str:
    source, target = space.endpoints[row]
    offered = f"choose {' or '.join(ops)}" if ops else "leave the edge out"
    return f"{op!r} on edge {source}->{target} of {cell!r} is not in space {space.name!r}: {offered}."


def to_string(space: CellSpace, arch) -> str:
    """Writes an architecture in its field's format; `from_string` reads it back.

    A `Genotype` for spaces on DARTS' cells. Otherwise NAS-Bench-201's `|op~0|+|op~0|op~1|+...`, and with several cells
    one such string a cell as `cell=string`, separated by spaces.

    Args:
      space: the space of the architecture.
      arch: `[num_choices]` int32, concrete.

    Returns:
      One line of text.

    Raises:
      ValueError: if `arch` is no architecture of `space`.
    """
    if has_genotype(space):
        return repr(to_genotype(space, arch))
    fixed = fix(space, arch)
    if len(space.cells) == 1:
        return to_bars(fixed, space.cells[0])
    return " ".join(f"{cell}={to_bars(fixed, cell)}" for cell in space.cells)


def from_string(space: CellSpace, text: str) -> Array:
    """Reads an architecture: what `to_string` writes, or a pasted `Genotype(...)`.

    >>> from_string(nasbench201(), "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|").tolist()
    [3, 0, 1, 0, 0, 2]

    Args:
      space: the space to read in.
      text: never evaluated, only parsed.

    Returns:
      `[num_choices]` int32.

    Raises:
      UserError: if the text is no architecture of the space; one sentence quotes the part that is wrong.
    """
    text = text.strip()
    if has_genotype(space):
        return encode(space, parse_genotype(text))
    if len(space.cells) == 1:
        return encode(space, place(space, {space.cells[0]: from_bars(space, text)}))
    parts = [part.partition("=") for part in text.split()]
    if [cell for cell, _, _ in parts] != list(space.cells):
        form = " ".join(f"{cell}=|op~0|+..." for cell in space.cells)
        raise UserError(f"{quoted(text)} does not name the cells of space {space.name!r}: write {form}.")
    return encode(space, place(space, {cell: from_bars(space, bars) for cell, _, bars in parts}))


def parse_genotype(text: str) -> Genotype:
    """Reads `Genotype(normal=[...], normal_concat=..., reduce=[...], reduce_concat=...)` without evaluating it.

    Args:
      text: the call as DARTS codes print it, perhaps with `NAME =` before it; lists or tuples, lists or `range(a, b)`.

    Returns:
      The genotype, whatever space it belongs to.

    Raises:
      UserError: if the text is no such call; one sentence quotes the part that is wrong.
    """
    call = _parse(re.sub(r"^\w+\s*=\s*(?=Genotype\s*\()", "", text))
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Genotype"):
        raise UserError(f"{quoted(text)} is no genotype: write Genotype(normal=[...], ...).")
    given = dict(zip(Genotype._fields, call.args, strict=False))
    given.update({keyword.arg: keyword.value for keyword in call.keywords if keyword.arg})
    if len(call.args) + len(call.keywords) != len(Genotype._fields) or set(given) != set(Genotype._fields):
        raise UserError(f"{quoted(text)} must give {', '.join(Genotype._fields)} once each.")
    return Genotype(
        normal=_pairs(given["normal"]),
        normal_concat=_indices(given["normal_concat"]),
        reduce=_pairs(given["reduce"]),
        reduce_concat=_indices(given["reduce_concat"]),
    )


def _parse(text: str) -> ast.expr | None:
    if len(text) > _LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser warns about odd literals in what may be any text
            return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _shown(node: ast.expr) -> str:
    try:
        return quoted(ast.unparse(node))
    except RecursionError:  # it comes sooner than the parser's
        return "what is nested so deeply"


def _pairs(node: ast.expr) -> list[tuple[str, int]]:
    if not isinstance(node, ast.List | ast.Tuple):
        raise UserError(f"{_shown(node)} is no list of pairs: write [('sep_conv_3x3', 0), ...].")
    return [_pair(item) for item in node.elts]


def _pair(node: ast.expr) -> tuple[str, int]:
    match node:
        case ast.Tuple([ast.Constant(str(op)), ast.Constant(int(source))]) if source <= _HIGHEST:
            return op, source
    raise UserError(f"{_shown(node)} is no pair: write (operator, source), such as ('sep_conv_3x3', 0).")


def _indices(node: ast.expr) -> list[int] | range:
    match node:
        case ast.Call(ast.Name("range"), [ast.Constant(int(first)), ast.Constant(int(stop))], []) if stop <= _HIGHEST:
            return range(first, stop)
        case ast.List(items) | ast.Tuple(items):
            values = [item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, int)]
            if len(values) == len(items):
                return values
    raise UserError(f"{_shown(node)} lists no nodes: write range(2, 6) or [2, 3, 4, 5].")
