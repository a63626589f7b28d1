"""Neural architecture search by gradient in JAX.

`jnas.spaces` says what can be searched, `jnas.bilevel` how (hypergradients and recursive momentum over any pytrees),
`jnas.nets` builds supernets and found networks, `jnas.data` feeds them, `jnas.fit` runs a learner.
"""

from jnas import bilevel, data, nets, spaces
from jnas.engine import fit

__version__ = "0.3.0"
__all__ = ["bilevel", "data", "fit", "nets", "spaces"]
