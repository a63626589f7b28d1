import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas.nets.cell import Cell, drop_path_scale
from jnas.spaces.cell import CellSpace

OPS = ("none", "skip_connect", "nor_conv_1x1", "avg_pool_3x3")
CHANNELS = 4


def space(edge_ops, num_inputs=1, num_nodes=1, output="last"):
    return CellSpace("small", ("cell",), num_inputs, num_nodes, OPS, (edge_ops,), None, output)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (8, 4, 4, CHANNELS))


def run(cell, inputs, mix=None, drop_path=None, key=None, train=True):
    apply = jax.jit(
        lambda variables, inputs, mix, rate, key: cell.apply(
            variables,
            inputs,
            mix,
            train,
            rate,
            rngs=None if key is None else {"drop_path": key},
            mutable=["batch_stats"],
        )[0]
    )
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(1), inputs, mix, False))
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(size=leaf.shape), jnp.float32), shapes.get("params", {})
    )
    stats = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes.get("batch_stats", {}))
    return apply({"params": params, "batch_stats": stats}, inputs, mix, drop_path, key)


def test_drop_path_scale_keeps_the_expectation():
    scales = np.asarray(drop_path_scale(jax.random.key(0), 0.3, (40_000,), jnp.float32))
    np.testing.assert_allclose(np.unique(scales), [0.0, 1 / 0.7], rtol=1e-6)
    assert abs(scales.mean() - 1) < 5 * np.sqrt(0.3 / 0.7 / scales.size)


def test_drop_path_drops_whole_examples_of_an_edge(images):
    cell = Cell(space((("nor_conv_1x1",),)), "cell", CHANNELS)
    kept = run(cell, (images,))
    dropped = run(cell, (images,), drop_path=0.5, key=jax.random.key(4))
    zero = np.asarray((dropped == 0).all((1, 2, 3)))
    assert 0 < zero.sum() < 8
    np.testing.assert_allclose(dropped[~zero], 2 * kept[~zero], rtol=1e-6)
    np.testing.assert_array_equal(dropped, run(cell, (images,), drop_path=0.5, key=jax.random.key(4)))
    assert (dropped != run(cell, (images,), drop_path=0.5, key=jax.random.key(5))).any()


def test_drop_path_is_independent_between_edges(images):
    cell = Cell(space((("nor_conv_1x1",),) * 3, 1, 2, "concat"), "cell", CHANNELS)
    dropped = run(cell, (images,), drop_path=0.5, key=jax.random.key(4))
    first, second = dropped[..., :CHANNELS], dropped[..., CHANNELS:]
    first, second = (np.asarray((node == 0).all((1, 2, 3))) for node in (first, second))
    assert (first != second).any()  # one mask for both would lose the same examples


@pytest.mark.parametrize("drop_path", [None, 0.5])
def test_drop_path_spares_identities_and_evaluation(images, drop_path):
    identity = Cell(space((("skip_connect",),)), "cell", CHANNELS)
    np.testing.assert_array_equal(run(identity, (images,), drop_path=drop_path, key=jax.random.key(4)), images)
    conv = Cell(space((("nor_conv_1x1",),)), "cell", CHANNELS)
    evaluated = run(conv, (images,), drop_path=drop_path, train=False)
    np.testing.assert_array_equal(evaluated, run(conv, (images,), train=False))


def test_a_halving_skip_is_no_identity(images):
    cell = Cell(space((("skip_connect",),)), "cell", CHANNELS, reduction=True)
    dropped = run(cell, (images,), drop_path=0.5, key=jax.random.key(4))
    assert 0 < int((dropped == 0).all((1, 2, 3)).sum()) < 8


def test_a_mixed_edge_is_the_weighted_sum_of_its_operators(images):
    mixed = Cell(space((OPS,)), "cell", CHANNELS)
    weights = jnp.array([[0.1, 0.2, 0.3, 0.4]])
    output = run(mixed, (images,), weights)
    single = {op: run(Cell(space(((op,),)), "cell", CHANNELS), (images,)) for op in OPS}
    assert not single["none"].any()
    expected = sum(weight * single[op] for weight, op in zip((0.1, 0.2, 0.3, 0.4), OPS, strict=True))
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def test_nodes_sum_their_edges_and_absent_edges_add_nothing(images):
    # node 1 = avg(0); node 2 = skip(0) + skip(1); node 3 has only a `none`
    ops = (("avg_pool_3x3",), ("skip_connect",), ("skip_connect",), (), ("none",), ())
    cell = Cell(space(ops, 1, 3, "concat"), "cell", CHANNELS)
    first, second, third = jnp.split(run(cell, (images,)), 3, axis=-1)
    pooled = run(Cell(space((("avg_pool_3x3",),)), "cell", CHANNELS), (images,))
    np.testing.assert_allclose(first, pooled, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(second, images + pooled, rtol=1e-6, atol=1e-6)
    assert third.shape == images.shape
    assert not third.any()


def test_only_edges_from_the_inputs_of_a_reduction_cell_have_stride_2(images):
    ops = (("avg_pool_3x3",), ("none",), ("skip_connect",))
    cell = Cell(space(ops, 1, 2, "concat"), "cell", CHANNELS, reduction=True)
    first, second = jnp.split(run(cell, (images[:, :3, :3],)), 2, axis=-1)
    assert first.shape[1:3] == (2, 2)
    np.testing.assert_array_equal(first, second)


def test_inputs_are_brought_to_the_resolution_of_the_last():
    cell = Cell(space((("skip_connect",),) * 2, 2), "cell", CHANNELS, halvings=(1, 0))
    old, new = jnp.ones((2, 7, 7, 3)), jnp.ones((2, 4, 4, 6))
    shapes = jax.eval_shape(lambda: cell.init_with_output(jax.random.key(0), (old, new), None, True))
    assert shapes[0].shape == (2, 4, 4, CHANNELS)
    assert set(shapes[1]["params"]) == {"reduce_0_0", "project_1"}
