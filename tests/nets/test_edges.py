"""Mixed cells, whichever way their edges are computed, against plain Python over edges and operators in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas.nets import Cell, Network, operator
from jnas.nets.edges import schedule
from jnas.nets.stacking import per_edge
from jnas.spaces.cell import CellSpace, narrow

CHANNELS, SIDE, BATCH = 2, 4, 3
OPS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
CELLS = ("normal", "reduce")
# In miniature: two nodes, of which the second reads the first.
DARTS = CellSpace("darts", CELLS, 1, 2, OPS, ((OPS,) * 3, (OPS[:4] + OPS[5:],) * 3), 2, "concat")
MAX, SKIP, DIL = "max_pool_3x3", "skip_connect", "dil_conv_3x3"
NARROWED = narrow(  # several stacks, an absent edge, and one that only adds zeros
    CellSpace("darts", ("normal",), 2, 2, OPS, ((OPS,) * 5,), 2, "concat"),
    {"normal": ((SKIP, DIL), (MAX, SKIP), (), ("none", SKIP, DIL), ("none",))},
)
NB201_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NB201 = CellSpace("nasbench201", ("cell",), 1, 2, NB201_OPS, ((NB201_OPS,) * 3,), None, "last")
CASES = {
    "normal": (DARTS, "normal"),
    "reduce": (DARTS, "reduce"),
    "narrowed": (NARROWED, "normal"),
    "nasbench201": (NB201, "cell"),
}
STRATEGIES = ("scan", "unroll", "merge")


def make(name, strategy="scan", remat=True):
    space, kind = CASES[name]
    options = {"affine": name == "nasbench201", "normalise_pools": name != "nasbench201", "dtype": jnp.float64}
    return Cell(space, kind, CHANNELS, reduction=kind == "reduce", edge_strategy=strategy, remat=remat, **options)


def edge_by_edge(cell, tree):
    """The names of found networks; the rest of the network does not matter here."""
    net = Network(cell.space, (cell.kind,), CHANNELS, 2)
    return per_edge(net, {"block_0": tree})["block_0"]


@functools.cache
def point(name):
    """Parameters and statistics of a cell, inputs and a mix, all drawn at random, and a direction like them."""
    cell, random = make(name), np.random.default_rng(0)
    inputs = (jax.ShapeDtypeStruct((BATCH, SIDE, SIDE, CHANNELS), jnp.float64),) * cell.space.num_inputs
    mix = jax.ShapeDtypeStruct((cell.space.num_edges, len(cell.space.ops)), jnp.float64)
    shapes = jax.eval_shape(functools.partial(cell.init, train=True), jax.random.key(0), inputs, mix)
    draw = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), tree)
    stats = jax.tree.map(lambda leaf: leaf**2 + 0.5, draw(shapes["batch_stats"]))
    # The statistics of a pool are those of its source, and equal wherever they are kept.
    for ops in stats.values():
        ops.update({op: jax.tree.map(lambda leaf: jnp.ones_like(leaf) / 2, ops[op]) for op in ops if "pool" in op})
    like = (shapes["params"], mix, inputs)
    return draw(like), stats, draw(like)


def by_edges(cell, params, stats, inputs, mix, train=True):
    """The oracle: nodes and new statistics, `params` and `stats` named edge by edge."""
    states, changed = list(inputs), {}
    for target in range(cell.space.num_inputs, cell.space.num_inputs + cell.space.num_nodes):
        halves = 2 if cell.reduction else 1
        node = jnp.zeros_like(inputs[0][:, ::halves, ::halves])
        for row, edge in enumerate(cell.space.edges(cell.kind)):
            for op in edge.ops if edge.target == target else ():
                stride = halves if edge.source < cell.space.num_inputs else 1
                name = f"{edge.source}_{op}" if "pool" in op else f"{edge.source}_{target}_{op}"
                module = operator(
                    op,
                    channels=CHANNELS,
                    stride=stride,
                    affine=cell.affine,
                    normalise_pools=cell.normalise_pools,
                    dtype=cell.dtype,
                )
                variables = {"params": params.get(name, {}), "batch_stats": stats.get(name, {})}
                y, new = module.apply(variables, states[edge.source], train, mutable=["batch_stats"])
                node += mix[row, cell.space.ops.index(op)] * y
                changed.update({name: new["batch_stats"]} if new.get("batch_stats") else {})
        states.append(node)
    nodes = states[cell.space.num_inputs :]
    return (jnp.concatenate(nodes, -1) if cell.space.output == "concat" else nodes[-1]), changed


def height(output):
    """A curved function of all outputs, whose batch norms are not invisible to it."""
    return jnp.vdot(jnp.sin(output), jnp.cos(jnp.arange(output.size, dtype=output.dtype)).reshape(output.shape))


def derivatives(loss, point, direction):
    """The value and new statistics, the gradient and a Hessian-vector product."""
    gradient = jax.value_and_grad(lambda point: loss(*point), has_aux=True)
    (value, (_, product)) = jax.jvp(gradient, (point,), (direction,))
    return *value, product


def loss_of(cell, stats, params, mix, inputs):
    variables = {"params": params, "batch_stats": stats}
    output, changed = cell.apply(variables, inputs, mix, True, mutable=["batch_stats"])
    return height(output), changed["batch_stats"]


@functools.cache
def expected(name):
    cell = make(name)
    (params, mix, inputs), stats, (dparams, *direction) = point(name)

    def loss(params, mix, inputs):
        output, changed = by_edges(cell, params, edge_by_edge(cell, stats), inputs, mix)
        return height(output), changed

    named, along = edge_by_edge(cell, params), edge_by_edge(cell, dparams)
    return jax.jit(functools.partial(derivatives, loss))((named, mix, inputs), (along, *direction))


def assert_close(actual, expected, tolerance=1e-10):
    def check(path, a, b):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        scale = max(1.0, float(jnp.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path))

    jax.tree.map_with_path(check, actual, expected)


WAYS = [(strategy, remat) for strategy in STRATEGIES for remat in (True, False)]


@pytest.mark.parametrize(
    ("name", "strategy", "remat"),
    [
        *[("narrowed", *way) for way in WAYS],
        *[(name, *way) for name in ("normal", "reduce") for way in (("scan", True), ("merge", True))],
        *[("nasbench201", *way) for way in (("scan", True), ("merge", False))],
    ],
)
def test_value_statistics_gradient_and_hessian_product_equal_those_of_plain_python(x64, name, strategy, remat):
    cell = make(name, strategy, remat)
    where, stats, direction = point(name)
    found = jax.jit(functools.partial(derivatives, functools.partial(loss_of, cell, stats)))(where, direction)
    (value, changed), *vectors = found
    named = [(edge_by_edge(cell, params), mix, inputs) for params, mix, inputs in vectors]
    reference = expected(name)
    assert_close(((value, edge_by_edge(cell, changed)), *named), reference)
    for vector in reference[1:]:  # nothing to compare would be no comparison
        assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(vector)) > 1e-4


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_evaluation_reads_the_running_statistics_of_each_edge(x64, strategy):
    cell = make("narrowed", strategy)
    (params, mix, inputs), stats, _ = point("narrowed")

    @jax.jit
    def both(params, mix, inputs):
        variables = {"params": params, "batch_stats": stats}
        named = edge_by_edge(cell, params), edge_by_edge(cell, stats)
        return cell.apply(variables, inputs, mix, False), by_edges(cell, *named, inputs, mix, False)[0]

    assert_close(*both(params, mix, inputs))


@pytest.mark.parametrize("remat", [True, False])
def test_remat_is_in_the_program_and_keeps_dense_convolutions(x64, remat):
    cell = make("nasbench201", "scan", remat)
    where, stats, _ = point("nasbench201")
    gradient = jax.grad(lambda *point: loss_of(cell, stats, *point)[0])
    text = str(jax.make_jaxpr(gradient)(*where))
    assert (("checkpoint" in text) or ("remat" in text)) == remat
    assert len([line for line in text.splitlines() if " conv2d[" in line]) == 1  # one edge, never recomputed


def test_a_switch_computes_of_a_one_hot_mix_what_is_chosen(x64):
    """Value and gradient are those of the mixture, for one program; the statistics of what is not chosen stay."""
    (params, mix, inputs), stats, _ = point("reduce")
    switch, scan = (
        jax.jit(jax.value_and_grad(functools.partial(loss_of, make("reduce", way), stats), (0, 2), has_aux=True))
        for way in ("switch", "scan")
    )
    for seed in range(3):
        drawn = np.random.default_rng(seed).integers(0, len(OPS) + 1, len(mix))  # the last one: no operator at all
        chosen = np.eye(len(OPS) + 1)[drawn][:, :-1]
        ((value, changed), found), ((mixed, whole), expected) = (way(params, chosen, inputs) for way in (switch, scan))
        assert_close((value, found), (mixed, expected))
        cell = make("reduce")
        for stack in schedule(cell.space.edges("reduce"), 1, True):
            for op, own in changed[stack.name].items():
                there = chosen[list(stack.rows), OPS.index(op)][:, None] > 0
                at = whole[stack.name][op], stats[stack.name][op]
                assert_close(own, jax.tree.map(lambda new, old, there=there: jnp.where(there, new, old), *at))


def gradient(strategy):
    cell = make("narrowed", strategy)
    (_, _, inputs), stats, _ = point("narrowed")
    return jax.value_and_grad(lambda params, mix: loss_of(cell, stats, params, mix, inputs)[0], (0, 1))


@pytest.mark.parametrize("strategy", ["scan", "merge"])
def test_vmap_over_mixes_and_weights_equals_a_loop(x64, strategy):
    (params, mix, _), _, (dparams, dmix, _) = point("narrowed")
    weights = jax.tree.map(lambda a, b: jnp.stack((a, a + b / 2)), params, dparams)
    mixes = jnp.stack((mix, dmix))
    one = lambda n: jax.tree.map(lambda leaf: leaf[n], weights)
    many = jax.vmap(gradient(strategy), (None, 0)), jax.vmap(gradient(strategy))
    population, pairs = jax.jit(lambda: (many[0](params, mixes), many[1](weights, mixes)))()
    single = jax.jit(gradient("scan"))
    stack = lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    assert_close(population, stack(*(single(params, mixes[n]) for n in range(2))))
    assert_close(pairs, stack(*(single(one(n), mixes[n]) for n in range(2))))


def test_every_strategy_initialises_the_same_tree():
    trees = []
    for strategy in STRATEGIES:
        cell = Cell(DARTS, "reduce", CHANNELS, reduction=True, edge_strategy=strategy, normalise_pools=True)
        start = lambda key, cell=cell: cell.init(key, (jnp.ones((1, 4, 4, 2)),), jnp.ones((3, 6)), True)
        shapes = jax.eval_shape(start, jax.random.key(0))
        trees.append(jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes))
    assert trees[0] == trees[1] == trees[2]
    assert set(trees[0]["params"]) == {"edges_0", "edges_1"}


# --- drop path and noise ---------------------------------------------------------------------------------------------

PATHS = ("skip_connect", "avg_pool_3x3")
NOISY = ("noise", "nor_conv_1x1")


def tiny(ops, strategy, nodes=2, reduction=False):
    edges = sum(range(1, nodes + 1))
    space = CellSpace("tiny", ("cell",), 1, nodes, ops, ((ops,) * edges,), None, "concat")
    return Cell(space, "cell", CHANNELS, reduction=reduction, edge_strategy=strategy)


def started(cell):
    x = jax.random.normal(jax.random.key(0), (8, 4, 4, CHANNELS))
    mix = jnp.ones((cell.space.num_edges, len(cell.space.ops)))
    return dict(
        jax.jit(lambda key: cell.init({"params": key, "drop_path": key}, (x,), mix, True))(jax.random.key(1))
    ), x


@pytest.mark.parametrize("strategy", ["scan", "merge"])
def test_drop_path_drops_the_whole_mixture_of_an_edge_for_an_example(strategy):
    cell = tiny(PATHS, strategy)
    x = jax.random.normal(jax.random.key(0), (8, 4, 4, CHANNELS))
    mix = jnp.array([[0.3, 0.7], [0.6, 0.4], [0.0, 0.0]])  # the two edges that leave the input

    @functools.partial(jax.jit, static_argnums=0)
    def apply(train, rate):
        rngs = {"drop_path": jax.random.key(2)} if train else None
        return cell.apply({}, (x,), mix, train, rate, rngs=rngs, mutable=["batch_stats"])[0]

    kept, dropped = (np.split(apply(True, rate), 2, -1) for rate in (0.0, 0.5))
    lost = [(node == 0).all((1, 2, 3)) for node in dropped]
    assert (lost[0] != lost[1]).any()  # each edge loses examples of its own
    for whole, left, zero in zip(kept, dropped, lost, strict=True):
        assert 0 < zero.sum() < len(zero)
        np.testing.assert_allclose(left[~zero], 2 * whole[~zero], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(apply(False, 0.5), np.concatenate(kept, -1), rtol=1e-5, atol=1e-6)


@functools.cache
def noises(strategy, reduction):
    """Functions of a key, or of None in evaluation, to the noise of each edge of a cell with three."""
    cell = tiny(NOISY, strategy, reduction=reduction)
    variables, x = started(cell)
    rows = jnp.stack((jnp.eye(3), jnp.zeros((3, 3))), -1)  # one edge's noise at a time

    @functools.partial(jax.jit, static_argnums=1)
    def draw(key, train):
        rngs = None if key is None else {"drop_path": key}
        apply = lambda mix: cell.apply(variables, (x,), mix, train, rngs=rngs, mutable=["batch_stats"])[0]
        nodes = jax.vmap(apply)(rows)
        # Edge 0 leads to the first node, the other two to the second.
        return jnp.stack([node[..., at : at + CHANNELS] for node, at in zip(nodes, (0, 2, 2), strict=True)])

    return draw


@pytest.mark.parametrize(("strategy", "reduction"), [("scan", True), ("merge", False)])
@pytest.mark.parametrize("train", [True, False])
def test_noise_differs_between_edges_and_follows_the_key(strategy, reduction, train):
    draw = noises(strategy, reduction)
    keys = (jax.random.key(0), jax.random.key(1)) if train else (None, None)
    edges, again = (np.asarray(draw(keys[0], train)).reshape(3, -1) for _ in range(2))
    np.testing.assert_array_equal(edges, again)
    other = np.asarray(draw(keys[1], train)).reshape(3, -1)
    assert (edges != other).all() if train else (edges == other).all()
    correlation = np.corrcoef(np.concatenate((edges, other)) if train else edges)
    off = np.abs(correlation - np.eye(len(correlation))).max()
    assert off < 5 / edges.shape[1] ** 0.5
    assert abs(edges.var() - 1) < 5 * (2 / edges.size) ** 0.5


def test_noise_is_the_same_for_all_strategies():
    drawn = [noises(strategy, False)(jax.random.key(3), True) for strategy in ("scan", "merge")]
    np.testing.assert_allclose(*drawn, rtol=1e-6)


def test_initialisation_leaves_the_running_statistics_where_they_start():
    for leaf, name in (
        (leaf, path[-1].key)
        for path, leaf in jax.tree.leaves_with_path(started(tiny(("none", "nor_conv_1x1"), "scan"))[0]["batch_stats"])
    ):
        np.testing.assert_array_equal(leaf, 1.0 if name == "var" else 0.0)
