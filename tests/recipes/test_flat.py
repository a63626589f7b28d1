"""Weights as one vector: the way there and back, and a loss over either."""

import chex
import jax
import jax.numpy as jnp
import pytest

from jnas import nets, spaces
from jnas.recipes import flat
from jnas.recipes.supernet import supernet_problem
from jnas.types import Context, Examples

SHAPE = (4, 4, 1)


@pytest.fixture(scope="module")
def net():
    space = spaces.narrow(spaces.nasbench201(), {"cell": [("skip_connect", "nor_conv_1x1")] * 6})
    return nets.network_for(space, channels=2, depth=1, num_classes=3)


def test_there_and_back_changes_nothing(net):
    params, stats = nets.initialise(net, jax.random.key(1), SHAPE)
    point, started = flat.start(net, SHAPE)(jax.random.key(1))
    assert point.weights.shape == (nets.count_parameters(params),)
    assert point.alpha == ()
    chex.assert_trees_all_equal(flat.unravel_of(net, SHAPE)(point.weights), params)
    chex.assert_trees_all_equal(started, stats)
    chex.assert_trees_all_equal(flat.ravel(params), point.weights)


def test_alpha_gets_a_key_of_its_own(net):
    weights_key, alpha_key = jax.random.split(jax.random.key(1))
    point, _ = flat.start(net, SHAPE, lambda key: spaces.init_alpha(net.space, key))(jax.random.key(1))
    chex.assert_trees_all_equal(point.weights, flat.ravel(nets.initialise(net, weights_key, SHAPE)[0]))
    chex.assert_trees_all_equal(point.alpha, spaces.init_alpha(net.space, alpha_key))


def test_losses_over_the_vector_have_the_derivatives_of_those_over_the_tree(net):
    unravel = flat.unravel_of(net, SHAPE)
    params, stats = nets.initialise(net, jax.random.key(1), SHAPE)
    alpha = spaces.init_alpha(net.space, jax.random.key(2))
    batch = Examples(jax.random.normal(jax.random.key(3), (6, *SHAPE)), jnp.arange(6, dtype=jnp.int32) % 3)
    tree, _ = supernet_problem(net)
    vector, _ = supernet_problem(net, unravel=unravel)

    @jax.jit
    def products(weights):
        def of(loss, at, along):
            gradient = lambda w: jax.grad(loss, has_aux=True)(w, alpha, batch, Context(stats))[0]
            return jax.jvp(gradient, (at,), (along,))

        theirs = of(tree.inner, unravel(weights), unravel(weights))
        return of(vector.inner, weights, weights), jax.tree.map(flat.ravel, theirs, is_leaf=lambda x: type(x) is dict)

    ours, theirs = products(flat.ravel(params))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-5)
