"""`Operator`: a candidate of an edge as a value, and how a space gets operators of the user's own."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

SETTINGS = ("affine", "normalise_pools", "dtype")  # of a network, that reach the operators which ask for them
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Operator:
    """A name, how the module is made, and what is to be known of it before it is made.

    ```
    module = make(channels, stride)  # a Flax module
    y = module(x, train)             # [batch, height, width, channels] -> that shape, at the stride
    ```
    A space carries the operators that are the user's own (`CellSpace.operators`, `extend`); the built-in ones are
    values of the same kind in `jnas.nets.ops.OPERATORS`, so that spaces need no network. Two operators are equal if
    their fields are: define `make` once, for each new function compiles a new program.

    Attributes:
      name: small letters, digits and `_`, as genotypes write it.
      make: `(channels, stride) -> module`, a function or a module class whose first two attributes these are; input and
        output have `channels` channels, a stride of 2 halves both sides, rounded up.
      settings: keyword arguments of `make`, with defaults, that the network around is to pass: "affine" (whether batch
        norms learn scale and bias: not those of a supernet), "normalise_pools" (whether one follows a pool), "dtype"
        (of the computation).
      loops: whether its gradient is as fast inside a loop as outside on a CPU: its convolutions are those of
        `jnas.nets.layers`. Edges with another candidate are written out one after another.
      shared: whether it has neither weights nor randomness, so that a found cell computes it once for all edges that
        leave a state.
      random: whether it reads the random stream "drop_path", in training and in evaluation.
      passes: whether its output depends on its input.
    """

    name: str
    make: Callable[..., Any]
    settings: tuple[str, ...] = ()
    loops: bool = False
    shared: bool = False
    random: bool = False
    passes: bool = True

    def __post_init__(self):
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"an operator is named {self.name!r}: use small letters, digits and _, a letter first.")
        if unknown := [name for name in self.settings if name not in SETTINGS]:
            raise ValueError(f"operator {self.name!r} asks for {unknown[0]!r}: choose among {', '.join(SETTINGS)}.")
