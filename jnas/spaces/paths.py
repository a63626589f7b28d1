"""What a cell computes, read off its paths: codes with the same paths are nearly the same network."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jnas.spaces.alpha import one_hot_alpha
from jnas.spaces.cell import CellSpace
from jnas.types import Array

SKIP = "skip_connect"
MAX_FEATURES = 256  # words counted in all, unless a length is given


def count_paths(space: CellSpace, archs: Array, *, longest: int | None = None) -> Array:
    """How many paths lead from an input of a cell to its output through each sequence of operators.

    A skip connection adds no operator to the sequence and `none` ends the path, so that an edge which no input reaches,
    or which does not reach the output, changes nothing, and neither does the order of nodes. Whether a sum stands
    before an operator or behind it is not seen. Traces under jit.

    Args:
      space: of the codes.
      archs: `[n, num_choices]` int32.
      longest: operators of the longest sequence counted; static; None: see `path_words`.

    Returns:
      `[n, num_features]` float32, in the order of `path_words`.

    Example: the input itself, by the edge 0->3, and two convolutions one after the other.

      >>> from jnas import spaces
      >>> space = spaces.nasbench201()
      >>> text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
      >>> counts = count_paths(space, spaces.from_string(space, text)[None])[0]
      >>> [word for (_, _, word), count in zip(path_words(space), counts) if count]
      [(), ('nor_conv_3x3', 'nor_conv_1x1')]
    """
    longest = _longest(space) if longest is None else longest
    mix = jax.vmap(lambda arch: one_hot_alpha(space, arch))(jnp.asarray(archs))
    return jnp.concatenate([_of_cell(space, mix[cell], longest) for cell in space.cells], axis=1)


def path_words(space: CellSpace, *, longest: int | None = None) -> list[tuple[str, int, tuple[str, ...]]]:
    """What `count_paths` counts: `(cell, input, operators)`, shorter sequences first.

    Args:
      space: any cell space.
      longest: operators of the longest sequence; None: as long as there are at most 256 features in all.

    Returns:
      One entry a feature.
    """
    longest = _longest(space) if longest is None else longest
    words = _words(_operators(space), longest)
    return [(cell, index, word) for cell in space.cells for index in range(space.num_inputs) for word in words]


def _words(operators: Sequence[str], longest: int) -> list[tuple[str, ...]]:
    return [word for length in range(longest + 1) for word in itertools.product(operators, repeat=length)]


def _operators(space: CellSpace) -> list[str]:
    """Those that stand in a sequence."""
    placed = {op for cell in space.edge_ops for ops in cell for op in ops}
    return [op for op in space.ops if op in placed and op not in (SKIP, *space.blocking)]


def _longest(space: CellSpace) -> int:
    """The most operators a sequence may have within `MAX_FEATURES`; a path has at most as many edges as nodes."""
    count, ends = len(_operators(space)), len(space.cells) * space.num_inputs
    fitting = [n for n in range(1, space.num_nodes + 1) if ends * sum(count**k for k in range(n + 1)) <= MAX_FEATURES]
    return max(fitting, default=1)


def _of_cell(space: CellSpace, mix: Array, longest: int) -> Array:
    """`[n, num_inputs * number of words]` of mix `[n, num_edges, num_ops]`."""
    operators = _operators(space)
    words = _words(operators, longest)
    # An edge takes a path from the word without its last operator to the word; the empty word has no last operator.
    prefix = np.array([words.index(word[:-1]) for word in words], np.int32)
    last = np.array([space.ops.index(word[-1]) if word else 0 for word in words], np.int32)
    grows = np.array([bool(word) for word in words])
    num, states = mix.shape[0], space.num_inputs + space.num_nodes
    skips = mix[:, :, space.ops.index(SKIP)] if SKIP in space.ops else jnp.zeros(mix.shape[:2], mix.dtype)
    start = np.zeros((states, 1, space.num_inputs, len(words)), np.float32)
    start[range(space.num_inputs), 0, range(space.num_inputs), 0] = 1.0

    def edge(paths, of_edge):  # by target, so that a source is settled before it is read
        (source, target), skip, placed = of_edge
        before = paths[source]
        longer = jnp.where(grows[None], placed[:, last], 0.0)[:, None] * before[..., prefix]
        return paths.at[target].add(skip[:, None, None] * before + longer), None

    paths = jnp.broadcast_to(start, (states, num, *start.shape[2:]))
    endpoints = np.array(space.endpoints, np.int32)
    paths, _ = jax.lax.scan(edge, paths, (endpoints, skips.T, jnp.moveaxis(mix, 1, 0)))
    outputs = paths[-1] if space.output == "last" else jnp.sum(paths[space.num_inputs :], axis=0)
    return outputs.reshape(num, -1)
