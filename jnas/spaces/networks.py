"""What a space of networks offers whether its networks are cells, repeated, or chains of layers."""

from typing import overload

import jax.numpy as jnp

from jnas.errors import UserError
from jnas.spaces import cell, text
from jnas.spaces.base import quoted
from jnas.spaces.cell import CellSpace
from jnas.spaces.chain import ChainSpace, chain_from_string, chain_to_string, fix_chain, parse_chain
from jnas.spaces.families.darts import has_genotype
from jnas.spaces.genotypes import PUBLISHED
from jnas.types import Array

NetworkSpace = CellSpace | ChainSpace


def network_space(name: str) -> NetworkSpace:
    """Finds a space of cells as `spaces.by_name` does, or a chain by its name.

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
    """The found network: as `spaces.fix`, or one candidate for every layer of a chain."""
    return fix_chain(space, arch) if isinstance(space, ChainSpace) else cell.fix(space, arch)


def is_connected(space: NetworkSpace, arch) -> bool:
    """As `spaces.is_connected`; a chain always is."""
    return isinstance(space, ChainSpace) or cell.is_connected(space, arch)


def to_string(space: NetworkSpace, arch) -> str:
    """As `spaces.to_string`; `chain:a+b+c` for a chain."""
    return chain_to_string(space, arch) if isinstance(space, ChainSpace) else text.to_string(space, arch)


def from_string(space: NetworkSpace, words: str) -> Array:
    """As `spaces.from_string`; also what `to_string` writes for a chain, or the name of a published cell.

    >>> from jnas import spaces
    >>> spaces.to_genotype(spaces.darts(), from_string(spaces.darts(), "DARTS_V2")).normal[:2]
    [('sep_conv_3x3', 0), ('sep_conv_3x3', 1)]
    >>> chain = network_space("chain-2:skip_connect,nor_conv_3x3")
    >>> from_string(chain, "chain:nor_conv_3x3+skip_connect").tolist()
    [1, 0]
    """
    if isinstance(space, ChainSpace):
        return jnp.asarray(chain_from_string(space, words), jnp.int32)
    name = words.strip()
    if has_genotype(space) and name.isidentifier():
        if name not in PUBLISHED:
            raise UserError(
                f"{quoted(name)} is no genotype: write Genotype(normal=[...], ...) or {', '.join(PUBLISHED)}."
            )
        return text.encode(space, PUBLISHED[name])
    return text.from_string(space, words)
