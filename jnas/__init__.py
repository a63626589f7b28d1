"""Neural architecture search by gradient in JAX.

`jnas.spaces` says what can be searched, `jnas.bilevel` how (hypergradients and recursive momentum over any pytrees),
`jnas.nets` builds supernets and found networks, `jnas.data` feeds them, `jnas.fit` runs a learner, `jnas.search` a
searcher of `jnas.searchers`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jnas import bilevel, data, nets, searchers, spaces
    from jnas.engine import fit, search

__version__ = "0.5.0"
__all__ = ["bilevel", "data", "fit", "nets", "search", "searchers", "spaces"]


def __getattr__(name: str) -> Any:
    # When asked for and not before: `jnas.exported` runs where none of them is wanted.
    if name in ("fit", "search"):
        return getattr(importlib.import_module("jnas.engine"), name)
    if name in (*__all__, "engine"):
        return importlib.import_module(f"jnas.{name}")
    raise AttributeError(f"module 'jnas' has no attribute {name!r}")
