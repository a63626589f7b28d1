"""Neural architecture search by gradient in JAX.

`jnas.spaces` says what can be searched, `jnas.bilevel` how (hypergradients and recursive momentum over any pytrees),
`jnas.nets` builds supernets and found networks, `jnas.data` feeds them, `jnas.fit` runs a learner, `jnas.search` a
searcher of `jnas.searchers`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jnas import bilevel, data, nets, searchers, spaces
    from jnas.study import search
    from jnas.train import fit

__version__ = "0.14.0"
_LOOPS = {"fit": "jnas.train", "search": "jnas.study"}
__all__ = ["bilevel", "data", "fit", "nets", "search", "searchers", "spaces"]


def __getattr__(name: str) -> Any:
    # When asked for and not before: `jnas.exported` runs where none of them is wanted.
    if name in _LOOPS:
        return getattr(importlib.import_module(_LOOPS[name]), name)
    if name in (*__all__, "distributed", "files", "study", "train"):
        return importlib.import_module(f"jnas.{name}")
    raise AttributeError(f"module 'jnas' has no attribute {name!r}")
