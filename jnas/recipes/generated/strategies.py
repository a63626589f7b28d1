"""The family of spaces that the settings of a search over spaces describe."""

import importlib
from collections.abc import Callable, Sequence

from jnas import spaces
from jnas.errors import UserError
from jnas.recipes.generated.settings import Strategies
from jnas.spaces import networks
from jnas.spaces.chain import ChainSpace, layer_of
from jnas.spaces.families.generated import Family, convolutions, layer_types, layer_types_and_depth, topologies, union


def family_of(strategies: Strategies, name: str = "generated") -> Family:
    """The family that the settings describe.

    >>> len(family_of(Strategies("layer_types", "skip_connect nor_conv_3x3 sep_conv_3x3")).choices[0].options)
    4

    Args:
      strategies: the settings.
      name: of the family.

    Returns:
      The family.

    Raises:
      UserError: if a function of the user's cannot be found.
      ValueError: if a strategy is unknown, or generates something else than spaces with something to choose.
    """
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
        if word not in known and ":" not in word:
            raise ValueError(f"strategy {word!r} is unknown: choose among {', '.join(known)}, or write module:function")
        try:
            generated[word] = tuple(known[word]() if word in known else _of_user(word)())
        except TypeError as error:
            if word in known:
                raise
            raise UserError(
                f"strategy {word!r} gave no spaces ({error}): name a function without arguments that returns some"
            ) from error
        for space in generated[word]:
            if not isinstance(space, ChainSpace | spaces.CellSpace) or spaces.size(space) < 2:
                raise ValueError(f"strategy {word!r} generates {space!r}: generate chains or cells with a choice in it")
    return union(name, generated)


def _of_user(word: str) -> Callable[[], Sequence[networks.NetworkSpace]]:
    module, _, function = word.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"strategy {word!r} cannot be imported ({error}): name a function as module:function") from None
