"""The stacks of a supernet, and its weights named edge by edge as those of found networks."""

from typing import Any

import jax

from jnas.nets.edges import Stack, schedule
from jnas.nets.network import REDUCE, RESIDUAL, Network


def per_edge(net: Network, tree: Any) -> dict[str, Any]:
    """Unstacks parameters, running statistics, or anything shaped like them (gradients, moments).

    In a supernet `tree["block_0"]["edges_0"][op]...` has the leading axis [num_edges] of its stack. Here every edge
    has a name of its own, `tree["block_0"]["0_2_sep_conv_3x3"]...`, as in a found network, whose weights are thus among
    these. The statistics of a pool's batch norm, equal on all edges from one state, appear once, `"0_max_pool_3x3"`.

    Args:
      net: the supernet.
      tree: of its params or batch_stats.

    Returns:
      The same blocks, unstacked.

    Example:
      >>> from jnas import nets, spaces
      >>> net = nets.network_for(spaces.nasbench201(), channels=4, depth=1, num_classes=10)
      >>> params, _ = jax.eval_shape(lambda key: nets.initialise(net, key, (8, 8, 3)), jax.random.key(0))
      >>> params["block_0"]["edges_0"]["nor_conv_3x3"]["Conv_0"]["kernel"].shape
      (6, 3, 3, 4, 4)
      >>> edges = jax.eval_shape(lambda tree: per_edge(net, tree), params)
      >>> edges["block_0"]["0_1_nor_conv_3x3"]["Conv_0"]["kernel"].shape
      (3, 3, 4, 4)
    """
    result = dict(tree)
    for block, stacks in stacks_of(net):
        if block not in tree:
            continue
        inside = dict(tree[block])
        for stack in stacks:
            for op, leaves in inside.pop(stack.name, {}).items():
                for position in range(len(stack.rows)):
                    one = jax.tree.map(lambda leaf, at=position: leaf[at], leaves)
                    inside.setdefault(stack.path(position, op), one)
        result[block] = inside
    return result


def stacks_of(net: Network) -> list[tuple[str, tuple[Stack, ...]]]:
    """The stacks of each block of a supernet, by the block's name; none in a found network."""
    if net.space.is_fixed:
        return []
    return [
        (f"block_{index}", schedule(net.space.edges(kind), net.space.num_inputs, kind == REDUCE, net.operators))
        for index, kind in enumerate(net.layout)
        if kind != RESIDUAL
    ]
