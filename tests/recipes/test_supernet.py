"""Losses and measurements against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas import data, nets, spaces
from jnas.data.load import load
from jnas.recipes.classification import accuracy, cross_entropy, evaluate


def softmax_loss(logits, labels, smoothing=0.0):
    shifted = logits - logits.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    target = np.eye(logits.shape[1])[labels] * (1 - smoothing) + smoothing / logits.shape[1]
    return -(target * logs).sum(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_and_accuracy(smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 5)).astype(np.float32), rng.integers(0, 5, 7).astype(np.int32)
    found = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(found, softmax_loss(logits, labels, smoothing).mean(), rtol=1e-5)
    assert float(accuracy(jnp.asarray(logits), jnp.asarray(labels))) == pytest.approx(
        (logits.argmax(1) == labels).mean()
    )


@pytest.mark.parametrize("batch_size", [8, 40])
def test_evaluation_counts_every_example_once(images, batch_size):
    """30 images in batches of 8 leave 2 rows that only fill up; 40 is more than there are."""
    test = load(str(images)).test
    test = data.Dataset(test.images[:30], test.labels[:30], test.shape, test.num_classes)
    space = spaces.by_name("s2")
    fixed = spaces.fix(space, spaces.sample(space, jax.random.key(0), 1)[0])
    net = nets.network_for(fixed, channels=2, depth=1, num_classes=4)
    params, stats = nets.initialise(net, jax.random.key(1), test.shape)
    mean, std = data.normalisation(test)
    augment = data.Augment(crop=2, flip=True, mean=mean, std=std)
    found = evaluate(net, {"params": params, "batch_stats": stats}, test, augment, batch_size=batch_size)
    pixels = (test.images.reshape(30, 7, 7, 1) / 255 - mean) / np.asarray(std)
    logits = net.apply({"params": params, "batch_stats": stats}, pixels.astype(np.float32), train=False).main
    assert found["loss"] == pytest.approx(softmax_loss(np.asarray(logits), test.labels).mean(), rel=1e-4)
    assert found["accuracy"] == pytest.approx((np.asarray(logits).argmax(1) == test.labels).mean())


def _supernet(name, images, number):
    """The problem of the space's supernet, a start of it, and a batch of the first images."""
    from jnas.recipes.supernet import supernet_problem
    from jnas.types import Examples

    space = spaces.by_name(name)
    net = nets.network_for(space, channels=2, depth=1, num_classes=4)
    params, stats = nets.initialise(net, jax.random.key(1), (7, 7, 1))
    train = load(str(images)).train
    pixels = jnp.asarray(train.images[:number].reshape(number, 7, 7, 1), jnp.float32) / 255
    batch = Examples(pixels, jnp.asarray(train.labels[:number]))
    return supernet_problem(net), params, stats, spaces.init_alpha(space, jax.random.key(2)), batch


def test_gauss_newton_of_the_supernet_is_the_curvature_of_its_loss(images):
    """Along the last layer, where the network is linear in the weights, Gauss-Newton and the Hessian are the same."""
    from jnas.bilevel import Context, Point, hessian

    (problem, gauss_newton), params, stats, alpha, batch = _supernet("s2", images, 12)
    vector = jax.tree.map(jnp.zeros_like, params)
    vector["classifier"] = jax.tree.map(lambda x: jax.random.normal(jax.random.key(3), x.shape), params["classifier"])
    products = jax.jit(
        lambda p, a, v: [
            curvature(problem.inner, Point(p, a), batch, Context(stats), v) for curvature in (hessian, gauss_newton)
        ]
    )(params, alpha, vector)
    exact, approximate = (jax.tree.leaves(product["classifier"]) for product in products)
    for a, b in zip(exact, approximate, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
        assert float(jnp.abs(a).max()) > 1e-4


def test_noise_of_the_space_s4_follows_the_key_of_the_step(images):
    """The same key, the same loss: products along a search's direction must see the noise of its gradient."""
    from jnas.bilevel import Context

    (problem, _), params, stats, alpha, batch = _supernet("s4", images, 6)
    loss = jax.jit(lambda key: problem.inner(params, alpha, batch, Context(stats, key))[0])
    losses = [float(loss(jax.random.key(seed))) for seed in (0, 0, 1)]
    assert losses[0] == losses[1]
    assert abs(losses[0] - losses[2]) > 1e-5
