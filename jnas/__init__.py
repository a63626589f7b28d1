"""Neural architecture search by gradient in JAX.

`jnas.search_architecture` does what the command does and `jnas.load` reads its runs. `jnas.spaces` says what can be
searched, `jnas.bilevel` how (hypergradients and recursive momentum over any pytrees), `jnas.nets` builds supernets and
found networks, `jnas.data` feeds them, `jnas.fit` runs a learner, `jnas.search` a searcher of `jnas.searchers`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jnas import bilevel, data, nets, searchers, spaces
    from jnas.recipes.commands import Run, evaluate, load, search_architecture, train_architecture
    from jnas.recipes.zoo.commands import select_network
    from jnas.study import search
    from jnas.train import fit

__version__ = "0.19.0"
_ROOMS = ("bilevel", "data", "distributed", "exported", "files", "nets", "searchers", "spaces", "study", "train")
_HOMES = {"fit": "train", "search": "study", "select_network": "recipes.zoo.commands"}
_HOMES |= dict.fromkeys(("Run", "evaluate", "load", "search_architecture", "train_architecture"), "recipes.commands")
__all__ = ["Run", "bilevel", "data", "evaluate", "fit", "load", "nets", "search", "search_architecture", "searchers",
           "select_network", "spaces", "train_architecture"]  # fmt: skip


def __dir__() -> list[str]:
    return sorted({*_ROOMS, *_HOMES, "__version__"})


def __getattr__(name: str) -> Any:
    # When asked for and not before: `jnas.exported` runs where none of them is wanted.
    if name in _HOMES:
        return getattr(importlib.import_module(f"jnas.{_HOMES[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"jnas.{name}")
    raise AttributeError(f"module 'jnas' has no attribute {name!r}")
