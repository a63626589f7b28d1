"""Hessian-vector and mixed products through a DARTS supernet against finite differences of the gradient in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas import spaces
from jnas.nets import Network, initialise
from jnas.spaces.cell import CellSpace

OPS = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
EDGES = (
    (("max_pool_3x3", "sep_conv_3x3"), ("skip_connect", "dil_conv_3x3")),
    (("none", "skip_connect", "dil_conv_3x3"), ("max_pool_3x3", "sep_conv_3x3")),
)
SMALL = CellSpace("small", ("reduce", "normal"), 2, 1, OPS, EDGES, 2, "concat")
NET = Network(
    SMALL, ("reduce", "normal"), 4, 3, stem_multiplier=1, affine=False, normalise_pools=True, dtype=jnp.float64
)


def as_double(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)


def direction(like, seed):
    """A random direction of length 1."""
    random = np.random.default_rng(seed)
    tree = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), like)
    length = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(tree)))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf / length), tree)


@pytest.fixture(scope="module")
def problem():
    with jax.enable_x64(True):
        params, stats = as_double(initialise(NET, jax.random.key(0), (8, 8, 2)))
        alpha = as_double(spaces.init_alpha(SMALL, jax.random.key(1), 1.0))
        random = np.random.default_rng(2)
        image = jnp.asarray(random.normal(size=(3, 8, 8, 2)))

        def loss(point):
            mix = spaces.mixture(SMALL, point["alpha"])
            variables = {"params": point["weights"], "batch_stats": stats}
            logits, _ = NET.apply(variables, image, mix, train=True, mutable=["batch_stats"])
            return -jnp.mean(jnp.diag(jax.nn.log_softmax(logits.main)))

        # One program for both: jvp returns the gradient and its derivative.
        yield (
            {"weights": params, "alpha": alpha},
            jax.jit(lambda point, along: jax.jvp(jax.grad(loss), (point,), (along,))),
        )


@pytest.mark.parametrize("varied", ["weights", "alpha"])
def test_jvp_of_the_gradient_equals_a_central_difference(x64, problem, varied):
    point, gradient_and_product = problem
    along = jax.tree.map(jnp.zeros_like, point)
    along[varied] = direction(point[varied], 3)
    step = 1e-6  # short enough that no ReLU and no maximum changes its side
    moved = [jax.tree.map(lambda leaf, d, s=sign: leaf + s * step * d, point, along) for sign in (1, -1)]
    plus, minus = (gradient_and_product(at, along)[0] for at in moved)
    expected = jax.tree.map(lambda a, b: (a - b) / (2 * step), plus, minus)
    product = gradient_and_product(point, along)[1]
    for (path, found), reference in zip(jax.tree.leaves_with_path(product), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, reference, rtol=1e-5, atol=1e-7, err_msg=jax.tree_util.keystr(path))
    for part in ("weights", "alpha"):  # both the Hessian's own block and the mixed one are there to be checked
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected[part])) > 1e-3


def test_second_derivative_is_symmetric(x64, problem):
    point, gradient_and_product = problem
    product = lambda along: gradient_and_product(point, along)[1]
    u, v = direction(point, 5), direction(point, 6)
    dot = lambda a, b: sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    np.testing.assert_allclose(dot(u, product(v)), dot(v, product(u)), rtol=1e-9)  # symmetry
    assert abs(float(dot(u, product(v)))) > 1e-5
