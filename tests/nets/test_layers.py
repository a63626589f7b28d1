import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AbstractMesh, AxisType

from jnas.nets.layers import Conv, DepthwiseConv, Linear, batch_norm, moments


class Norm(nn.Module):
    affine: bool
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        return batch_norm(x, train, affine=self.affine, dtype=self.dtype)


@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm_normalises_by_the_batch_and_averages_the_biased_variance(x64, affine):
    x = np.random.default_rng(0).normal(3.0, 2.0, (3, 4, 5, 2))
    net = Norm(affine, jnp.float64)
    params = {"BatchNorm_0": {"scale": jnp.array([2.0, 3.0]), "bias": jnp.array([-1.0, 1.0])}} if affine else {}
    stats = {"BatchNorm_0": {"mean": jnp.array([1.0, 2.0]), "var": jnp.array([4.0, 5.0])}}
    variables = {"params": params, "batch_stats": stats}
    y, changed = net.apply(variables, jnp.asarray(x), True, mutable=["batch_stats"])
    scale, bias = (np.array([2.0, 3.0]), np.array([-1.0, 1.0])) if affine else (1.0, 0.0)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5) * scale + bias, rtol=1e-12)
    new = changed["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(new["mean"], 0.9 * np.array([1.0, 2.0]) + 0.1 * mean, rtol=1e-12)
    np.testing.assert_allclose(new["var"], 0.9 * np.array([4.0, 5.0]) + 0.1 * variance, rtol=1e-12)
    evaluated = net.apply(variables, jnp.asarray(x), False)
    expected = (x - np.array([1.0, 2.0])) / np.sqrt(np.array([4.0, 5.0]) + 1e-5) * scale + bias
    np.testing.assert_allclose(evaluated, expected, rtol=1e-12)


def test_batch_norm_survives_a_mean_far_from_zero():
    x = 3000.0 + jnp.asarray(np.random.default_rng(0).normal(size=(8, 4, 4, 1)), jnp.float32)
    y, _ = Norm(False).apply(
        {"batch_stats": {"BatchNorm_0": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}}, x, True, mutable=["batch_stats"]
    )
    assert abs(float(y.std()) - 1) < 1e-3  # E[x^2] - E[x]^2 in float32 misses by more than the variance itself


SPREAD = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))


def testmoments_across_devices_are_those_of_one_to_the_third_derivative(x64):
    """Two sums that do not wait for one another in place of two that do, and the same derivatives."""
    x, v, g = jnp.asarray(np.random.default_rng(0).normal(3.0, 2.0, (3, 4, 3, 3, 2)))

    def derivatives(x):
        def loss(x):
            mean, variance = moments(x, jnp.array([2.5, -1.0]))
            return jnp.sum(g * jnp.tanh(x - mean[None, None, None]) * jax.lax.rsqrt(variance)[None, None, None])

        along = lambda x: jax.jvp(jax.grad(loss), (x,), (v,))[1]
        return moments(x, jnp.zeros(2)), jax.grad(loss)(x), along(x), jax.jvp(along, (x,), (v,))[1]

    one = jax.jit(derivatives)(x)
    with jax.sharding.use_abstract_mesh(SPREAD):
        many = jax.jit(derivatives)(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), one, many)
    assert not all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(many)))  # another formula


def test_the_variance_of_a_constant_across_devices_is_not_negative():
    x = jnp.broadcast_to(jnp.linspace(100.0, 2000.0, 64), (4, 3, 3, 64))  # of most, rounding makes less than -1e-5
    with jax.sharding.use_abstract_mesh(SPREAD):
        _, variance = jax.jit(moments)(x, jnp.zeros(64))
        _, near = jax.jit(moments)(x, x[0, 0, 0] + 0.5)
    assert (variance >= 0).all()
    np.testing.assert_allclose(near, 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "in_channels", "fan_in", "kernel"),
    [
        (Conv(64, 3), 16, 144, ("kernel",)),
        (DepthwiseConv(5), 600, 25, ("kernel",)),
        (Linear(50), 100, 100, ("Dense_0", "kernel")),
        (Linear(4000), 9, 9, ("Dense_0", "bias")),
    ],
)
def test_initial_values_are_uniform_on_one_over_the_root_of_fan_in(layer, in_channels, fan_in, kernel):
    shape = (1, in_channels) if isinstance(layer, Linear) else (1, 8, 8, in_channels)
    params = jax.jit(layer.init)(jax.random.key(0), jnp.zeros(shape))["params"]
    for name in kernel:
        params = params[name]
    values = np.sort(np.asarray(params, np.float64).ravel()) * np.sqrt(fan_in)
    assert values[0] >= -1 - 1e-6
    assert values[-1] <= 1 + 1e-6
    # Kolmogorov-Smirnov against the uniform distribution, at the 0.1 % level
    assert np.abs((values + 1) / 2 - np.linspace(0, 1, values.size)).max() < 1.95 / np.sqrt(values.size)
