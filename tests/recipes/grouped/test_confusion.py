"""Gradient confusion against gradients that are known, and depths against hand-made measures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas import nets, spaces
from jnas.bilevel import Aux
from jnas.recipes.grouped import confusion as c
from jnas.types import Source

VECTORS = np.array([[1.0, 0, 2], [0, 3, 1], [-2, 1, 1], [1, 1, 1]], np.float32)


def linear(weights, alpha, batch, context):
    """The gradient in the weights is the batch itself, times alpha."""
    return alpha * jnp.sum(weights["w"] * batch), Aux()


SOURCE = Source(lambda arrays, step, key: arrays[step], jnp.asarray(VECTORS))


def test_it_is_the_smallest_product_of_two_minibatch_gradients():
    found = c.gradient_confusion(
        linear, {"w": jnp.zeros(3)}, jnp.float32(2.0), (), SOURCE, num_batches=4, key=jax.random.key(0)
    )
    products = 4 * VECTORS.astype(float) @ VECTORS.T
    np.testing.assert_allclose(found.products, products)
    assert found.smallest == min(products[i, j] for i in range(4) for j in range(4) if i != j) == 0
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for i, a in enumerate(VECTORS) for b in VECTORS[:i]]
    assert found.cosine == pytest.approx(min(cosines), abs=1e-7)


def test_the_cosine_does_not_depend_on_the_size_of_the_gradients():
    measure = lambda scale, n: c.gradient_confusion(
        linear, {"w": jnp.zeros(3)}, jnp.float32(scale), (), SOURCE, num_batches=n, key=jax.random.key(0)
    )
    assert measure(1.0, 3).cosine == pytest.approx(measure(5.0, 3).cosine, abs=1e-7)
    assert measure(5.0, 2).smallest == pytest.approx(25 * measure(1.0, 2).smallest)


def test_bad_use_is_refused():
    with pytest.raises(ValueError, match="num_batches is 1"):
        c.gradient_confusion(linear, {}, (), (), SOURCE, num_batches=1, key=jax.random.key(0))
    streamed = SOURCE._replace(fetch=lambda step: None)
    with pytest.raises(ValueError, match="streams from the host"):
        c.gradient_confusion(linear, {}, (), (), streamed, key=jax.random.key(0))


def test_a_network_is_measured_at_each_of_its_initialisations():
    """The gradient of the sum of the first bias of the classifier is the number of examples: known without a net."""
    fixed = spaces.fix(spaces.nasbench201(), jnp.ones(6, jnp.int32))
    net = nets.Network(fixed, ("cell",), 2, 3, stem_multiplier=1, project_inputs=False)
    kernels = []

    def loss(weights, alpha, batch, context):
        kernel = weights["classifier"]["Dense_0"]["kernel"] if "Dense_0" in weights["classifier"] else (
            jax.tree.leaves(weights["classifier"])[-1]
        )  # fmt: skip
        return 0.5 * batch * jnp.sum(kernel**2), Aux()

    source = Source(lambda arrays, step, key: arrays[step], jnp.array([1.0, -1.0, 2.0]))
    key = jax.random.key(0)
    found = c.network_confusion(net, loss, (), (5, 5, 1), source, num_batches=3, num_seeds=2, key=key)
    for each in jax.random.split(key, 3)[1:]:
        params, _ = nets.initialise(net, each, (5, 5, 1))
        leaf = params["classifier"].get("Dense_0", {}).get("kernel", jax.tree.leaves(params["classifier"])[-1])
        kernels.append(float(jnp.sum(leaf.astype(jnp.float32) ** 2)))
    assert kernels[0] != kernels[1]
    assert found.smallest == pytest.approx(-2 * np.mean(kernels), rel=1e-5)
    assert found.cosine == pytest.approx(-1, abs=1e-6)


def test_the_nearest_depth_is_chosen_and_of_equals_the_smaller():
    assert c.choose_depth({20: -0.4, 14: -0.2, 8: 0.1}, -0.21) == 14
    assert c.choose_depth({3: 1.0, 2: 3.0}, 2.0) == 2
    with pytest.raises(ValueError, match="give finite measures"):
        c.choose_depth({}, 1.0)
    with pytest.raises(ValueError, match="give finite measures"):
        c.choose_depth({3: float("nan")}, 1.0)
