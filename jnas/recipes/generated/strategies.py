"""The family of spaces that the settings of a search over spaces describe."""

import contextlib
from collections.abc import Callable, Mapping, Sequence

from jnas import spaces
from jnas.errors import UserError
from jnas.files import own
from jnas.recipes.generated.settings import Strategies
from jnas.spaces import networks
from jnas.spaces.chain import layer_of
from jnas.spaces.families.generated import Family, convolutions, layer_types, layer_types_and_depth, topologies, union


def family_of(strategies: Strategies, name: str = "generated") -> Family:
    """The family that the settings describe, or that of the spaces in a file of the user's, see `own_parts.typed`.

    >>> len(family_of(Strategies("layer_types", "skip_connect nor_conv_3x3 sep_conv_3x3")).choices[0].options)
    4

    Args:
      strategies: the settings.
      name: of the family; of `own.Own` its part is the family, and the settings are not used.

    Returns:
      The family.

    Raises:
      UserError: if the user's part is no list of spaces, or one of them is not found by its name.
      ValueError: if a strategy is unknown, or a space has nothing to choose.
    """
    if (part := own.part_of(name, "space")) is not None:
        return _checked(name, {"own": _by_name(part, name)})
    types = strategies.types.split()
    for word in (*types, *strategies.operators.split()):
        layer_of(word)  # also one that stands alone, in no set of several
    known: dict[str, Callable[[], Sequence[networks.NetworkSpace]]] = {
        "layer_types_and_depth": lambda: layer_types_and_depth(types, strategies.depths),
        "layer_types": lambda: layer_types(types, strategies.depth),
        "convolutions": lambda: convolutions(
            kernels=strategies.kernels, widths=strategies.widths, expansions=strategies.expansions,
            groups=strategies.groups, dilations=strategies.dilations, depths=strategies.depths,
        ),
        "topologies": lambda: topologies(strategies.operators.split(), strategies.nodes),
    }  # fmt: skip
    generated = {}
    for word in strategies.names.split():
        if word not in known:
            raise ValueError(
                f"strategy {word!r} is unknown: choose among {', '.join(known)}, or give space=FILE.py:NAME"
            )
        generated[word] = tuple(known[word]())
    return _checked(name, generated)


def _checked(name: str, generated: Mapping[str, Sequence[networks.NetworkSpace]]) -> Family:
    for word, found in generated.items():
        for space in found:
            if spaces.size(space) < 2:
                raise ValueError(f"strategy {word!r} generates {space!r}: generate chains or cells with a choice in it")
    return union(name, generated)


def _by_name(part: object, name: str) -> Sequence[networks.NetworkSpace]:
    """The spaces of the user's own; every network is written down with the name of its space alone."""
    if not isinstance(part, tuple):
        raise UserError(
            f"space {own.shown(name)} is one space: give a list of spaces, or search it with another search"
        )
    for space in part:
        with contextlib.suppress(ValueError, UserError):
            if networks.network_space(space.name) == space:
                continue
        raise UserError(
            f"space {own.shown(name)} holds {space.name!r}, which is not found by its name: give chains and cells as "
            "spaces.networks.network_space makes them"
        )
    return part
