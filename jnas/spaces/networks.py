"""What a space of networks offers whether its networks are cells, repeated, or chains of layers."""

from collections.abc import Mapping, Sequence
from typing import overload

import jax
import jax.numpy as jnp

from jnas.errors import UserError
from jnas.files import own
from jnas.spaces import cell, text
from jnas.spaces.alpha import one_hot_alpha
from jnas.spaces.base import quoted
from jnas.spaces.cell import CellSpace
from jnas.spaces.chain import ChainSpace, chain_from_string, chain_to_string, fix_chain, parse_chain
from jnas.spaces.conventions import from_numbers, is_numbers, plain
from jnas.spaces.families.darts import has_genotype
from jnas.spaces.genotypes import PUBLISHED
from jnas.types import Array

NetworkSpace = CellSpace | ChainSpace


def network_space(name: str) -> NetworkSpace:
    """Finds a space of cells as `spaces.by_name` does, or a chain by its name.

    >>> network_space("chain-2:skip_connect,nor_conv_3x3").choices[0].options
    ('skip_connect', 'nor_conv_3x3')

    Args:
      name: such as darts, cell-3:none,nor_conv_3x3, chain-4:nor_conv_3x3,skip_connect or chain:a+b+c; or `own.Own`.

    Returns:
      The space.

    Raises:
      UserError: if there is none of that name.
    """
    if (part := own.part_of(name, "space")) is not None:
        if isinstance(part, tuple):
            raise UserError(f"space {own.shown(name)} is several spaces: search them with jnas search space-search")
        return part
    return parse_chain(name) if name.strip().startswith("chain") else text.by_name(name)


@overload
def fix(space: CellSpace, arch) -> CellSpace: ...
@overload
def fix(space: ChainSpace, arch) -> ChainSpace: ...
def fix(space: NetworkSpace, arch) -> NetworkSpace:
    """The found network: as `spaces.fix`, or one candidate for every layer of a chain."""
    return fix_chain(space, arch) if isinstance(space, ChainSpace) else cell.fix(space, arch)


def candidates(space: NetworkSpace) -> dict[str, tuple[str, ...]]:
    """The operators that are left at every place; none at an edge that is absent.

    >>> candidates(network_space("chain-2:skip_connect,conv_3x3"))["layer_1"]
    ('skip_connect', 'conv_3x3')

    Args:
      space: any; of a fixed one each place has at most one operator.

    Returns:
      By `cell/source_target`, or `layer_index` of a chain.
    """
    if isinstance(space, ChainSpace):
        return {f"layer_{index}": words for index, words in enumerate(space.layers)}
    return {f"{cell}/{edge.source}_{edge.target}": edge.ops for cell in space.cells for edge in space.edges(cell)}


def narrow(space: NetworkSpace, left: Mapping[str, Sequence[str]]) -> NetworkSpace:
    """Leaves fewer operators at some places, as `spaces.narrow` does.

    Args:
      space: the space to narrow.
      left: by places of `candidates` the operators to leave of those there; the other places stay as they are.

    Returns:
      The narrowed space.

    Raises:
      ValueError: if a layer of a chain is left without an operator.
    """
    rows = {place: [op for op in ops if op in left.get(place, ops)] for place, ops in candidates(space).items()}
    if isinstance(space, ChainSpace):
        return ChainSpace(tuple(map(tuple, rows.values())))
    return cell.narrow(
        space, {name: [ops for at, ops in rows.items() if at.partition("/")[0] == name] for name in space.cells}
    )


def one_hot(space: NetworkSpace, arch: Array) -> dict[str, Array]:
    """The mix with which a supernet computes the network of `arch`; it traces, and the indices are not checked.

    Args:
      space: the space of the supernet.
      arch: `[num_choices]` int32.

    Returns:
      As `spaces.one_hot_alpha`; of a chain for each `layer_index` float32 `[num_candidates]`.
    """
    if not isinstance(space, ChainSpace):
        return one_hot_alpha(space, arch)
    codes = jnp.asarray(arch, jnp.int32)
    places = enumerate(candidates(space).items())
    return {place: jax.nn.one_hot(codes[at], len(words), dtype=jnp.float32) for at, (place, words) in places}


def is_connected(space: NetworkSpace, arch) -> bool:
    """As `spaces.is_connected`; a chain always is."""
    return isinstance(space, ChainSpace) or cell.is_connected(space, arch)


def to_string(space: NetworkSpace, arch) -> str:
    """As `spaces.to_string`; `chain:a+b+c` for a chain."""
    return chain_to_string(space, arch) if isinstance(space, ChainSpace) else text.to_string(space, arch)


def from_string(space: NetworkSpace, words: str) -> Array:
    """As `spaces.from_string`; also a chain as `to_string` writes it, a published cell's name, and other codes' text.

    That is `Genotype(...)` of DARTS' forks, with pairs node by node, NumPy's numbers or a module before it, the dict
    `{'normal': [...], ...}` of AutoDL-Projects, `Structure(4 nodes with |...|)` of NAS-Bench-201, and numbers after the
    name of their convention, such as NASLib's `naslib:(4, 0, 3, 1, 4, 3)`.

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
    if is_numbers(words):
        return text.encode(space, from_numbers(space, words))
    return text.from_string(space, plain(words))
