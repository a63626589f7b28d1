"""What a space of networks offers whether its networks are cells, repeated, or chains of layers."""

from typing import overload

import jax.numpy as jnp

from jnas.spaces import cell, text
from jnas.spaces.cell import CellSpace
from jnas.spaces.chain import ChainSpace, chain_from_string, chain_to_string, fix_chain, parse_chain
from jnas.types import Array

NetworkSpace = CellSpace | ChainSpace


def network_space(name: str) -> NetworkSpace:
    """Finds a space of cells as `by_name` does, or a chain by its name.

    >>> network_space("chain-2:skip_connect,nor_conv_3x3").choices[0].options
    ('skip_connect', 'nor_conv_3x3')

    Args:
      name: such as darts, cell-3:none,nor_conv_3x3, chain-4:nor_conv_3x3,skip_connect or chain:a+b+c.

    Returns:
      The space.

    Raises:
      UserError: if there is none of that name.
    """
    return parse_chain(name) if name.strip().startswith("chain") else text.by_name(name)


@overload
def fix(space: CellSpace, arch) -> CellSpace: ...
@overload
def fix(space: ChainSpace, arch) -> ChainSpace: ...
def fix(space: NetworkSpace, arch) -> NetworkSpace:
    """The found network: the operators that an architecture places, and nothing on the other edges.

    Args:
      space: the space of the architecture.
      arch: `[num_choices]` int32, concrete (not traced).

    Returns:
      A space with at most one operator on every edge, or one candidate for every layer of a chain. An edge of a space
      that keeps all edges may carry `none`.

    Raises:
      ValueError: if `arch` is no architecture of `space`.
    """
    return fix_chain(space, arch) if isinstance(space, ChainSpace) else cell.fix(space, arch)


def is_connected(space: NetworkSpace, arch) -> bool:
    """Whether every cell's output depends on one of its inputs; a network of other cells guesses one class for all.

    A chain and a node that keeps DARTS' operators always do. A NAS-Bench-201 cell may have `none` on every path, and a
    cell of S4 may hold nothing but noise.

    Args:
      space: the space of the architecture.
      arch: `[num_choices]` int32, concrete.

    Returns:
      True if in every cell a path of operators that pass something on leads from an input to the output.
    """
    return isinstance(space, ChainSpace) or cell.is_connected(space, arch)


def to_string(space: NetworkSpace, arch) -> str:
    """Writes an architecture in its field's format; `from_string` reads it back.

    A `Genotype` for spaces on DARTS' cells; `chain:a+b+c` for a chain. Otherwise NAS-Bench-201's
    `|op~0|+|op~0|op~1|+...`, and with several cells one such string a cell as `cell=string`, separated by spaces.

    Args:
      space: the space of the architecture.
      arch: `[num_choices]` int32, concrete.

    Returns:
      One line of text.

    Raises:
      ValueError: if `arch` is no architecture of `space`.
    """
    return chain_to_string(space, arch) if isinstance(space, ChainSpace) else text.to_string(space, arch)


def from_string(space: NetworkSpace, words: str) -> Array:
    """Reads an architecture: what `to_string` writes, a pasted `Genotype(...)`, or the name of a published one.

    >>> from jnas import spaces
    >>> spaces.to_genotype(spaces.darts(), from_string(spaces.darts(), "DARTS_V2")).normal[:2]
    [('sep_conv_3x3', 0), ('sep_conv_3x3', 1)]

    Args:
      space: the space to read in.
      words: never evaluated, only parsed.

    Returns:
      `[num_choices]` int32.

    Raises:
      UserError: if the text is no architecture of the space; one sentence quotes the part that is wrong.
    """
    if isinstance(space, ChainSpace):
        return jnp.asarray(chain_from_string(space, words), jnp.int32)
    return text.from_string(space, words)
