"""Pooling against reduce_window, and against a slow loop where a window has ties."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jnas.nets.kernels.pooling import avg_pool3, max_pool3

WINDOW, PADDING = (1, 3, 3, 1), ((0, 0), (1, 1), (1, 1), (0, 0))


def max_by_lax(x, *, stride):
    return lax.reduce_window(x, -jnp.inf, lax.max, WINDOW, (1, stride, stride, 1), PADDING)


def avg_by_lax(x, *, stride):
    total = partial(
        lax.reduce_window,
        init_value=0.0,
        computation=lax.add,
        window_dimensions=WINDOW,
        window_strides=(1, stride, stride, 1),
        padding=PADDING,
    )
    return total(x) / total(jnp.ones_like(x))


def derivatives(pool, x, dx):
    """The value, the gradient, both kinds of Hessian-vector product, a vmapped one, and one out of linearize."""

    def loss(x):
        return jnp.sum(jnp.sin(pool(jnp.tanh(x))))

    def hvp(x):
        return jax.jvp(jax.grad(loss), (x,), (dx,))

    return (
        pool(x),
        hvp(x),
        jax.vjp(jax.grad(loss), x)[1](dx),
        jax.vmap(hvp, in_axes=1)(jnp.stack((x, dx), 1)),
        jax.linearize(jax.grad(loss), x)[1](dx),
    )


@pytest.mark.parametrize(("height", "width"), [(7, 7), (6, 8), (1, 2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("pool", "by_lax"), [(max_pool3, max_by_lax), (avg_pool3, avg_by_lax)])
def test_value_and_derivatives_equal_those_of_lax(x64, pool, by_lax, stride, height, width):
    rng = np.random.default_rng(0)
    x, dx = (jnp.asarray(rng.normal(size=(2, height, width, 3))) for _ in range(2))
    ours, expected = jax.jit(lambda *a: [derivatives(partial(f, stride=stride), *a) for f in (pool, by_lax)])(x, dx)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-14), ours, expected)


def first_maximum(x, stride):
    """For each window the flat index of its first largest pixel, and the output."""
    batch, height, width, channels = x.shape
    index = np.arange(x.size).reshape(x.shape)
    winners = np.zeros((batch, -(-height // stride), -(-width // stride), channels), int)
    for b, p, q, c in np.ndindex(winners.shape):
        rows = slice(max(p * stride - 1, 0), p * stride + 2)
        columns = slice(max(q * stride - 1, 0), q * stride + 2)
        winners[b, p, q, c] = index[b, rows, columns, c].ravel()[x[b, rows, columns, c].argmax()]
    return winners


@pytest.mark.parametrize("stride", [1, 2])
def test_with_ties_the_first_maximum_takes_the_whole_derivative(x64, stride):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 3, (2, 6, 5, 2)).astype(float)  # ties in almost every window, as after a ReLU
    winners = first_maximum(x, stride)
    dy, dx = rng.normal(size=winners.shape), rng.normal(size=x.shape)
    expected = np.zeros(x.size)
    np.add.at(expected, winners.ravel(), dy.ravel())

    @jax.jit
    def routes(x, dx, dy):
        y, pullback = jax.vjp(partial(max_pool3, stride=stride), x)

        def square(x):
            return jnp.sum(dy * max_pool3(x, stride=stride) ** 2)

        return y, pullback(dy)[0], jax.jvp(jax.grad(square), (x,), (dx,))[1], jax.vjp(jax.grad(square), x)[1](dx)[0]

    y, pulled, forward, reverse = routes(x, dx, dy)
    np.testing.assert_array_equal(y, x.ravel()[winners])
    np.testing.assert_allclose(pulled.ravel(), expected, atol=1e-14)
    second = np.zeros(x.size)  # of sum dy y^2 along dx: 2 dy dx at the winner, sent back to the winner
    np.add.at(second, winners.ravel(), (2 * dy * dx.ravel()[winners]).ravel())
    np.testing.assert_allclose(forward.ravel(), second, atol=1e-14)
    np.testing.assert_allclose(reverse.ravel(), second, atol=1e-14)


def test_a_constant_image_is_its_own_mean():
    np.testing.assert_allclose(avg_pool3(jnp.full((1, 5, 4, 2), 3.0), stride=2), 3.0, rtol=1e-6)


@pytest.mark.parametrize("pool", [max_pool3, avg_pool3])
def test_scan_and_checkpoint_change_nothing(pool):
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 2))

    def loss(x):
        return jnp.sum(jnp.sin(pool(x)))

    @jax.jit
    def routes(x):
        scanned = lax.scan(lambda carry, _: (carry, jax.grad(loss)(carry)), x, length=2)[1]
        return jax.grad(loss)(x), jax.grad(jax.checkpoint(loss))(x), *scanned

    plain, *others = routes(x)
    for other in others:
        np.testing.assert_allclose(other, plain, atol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_no_platform_gets_a_select_and_scatter(platform):
    def loss(x):
        return jnp.sum(jnp.sin(avg_pool3(max_pool3(x, stride=2))))

    image = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)
    traced = jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (x,))).trace(image)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "select_and_scatter" not in text
    assert "custom_call" not in text
    assert ("reduce_window" in text) == (platform != "cpu")


@pytest.mark.parametrize("pool", [max_pool3, avg_pool3])
def test_bfloat16_is_kept_and_accurate(pool):
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 2), jnp.bfloat16)
    grad = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(pool(x).astype(jnp.float32)))))
    half, single = grad(x), grad(x.astype(jnp.float32))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), single, atol=0.03 * float(jnp.abs(single).max()))


@pytest.mark.parametrize("pool", [max_pool3, avg_pool3])
def test_arguments_that_do_not_fit_are_refused(pool):
    with pytest.raises(ValueError, match="floating-point"):
        pool(jnp.ones((1, 4, 4, 2), jnp.int32))
    with pytest.raises(ValueError, match="batch, height, width, channels"):
        pool(jnp.ones((4, 4, 2)))
    with pytest.raises(ValueError, match="stride=0"):
        pool(jnp.ones((1, 4, 4, 2)), stride=0)
