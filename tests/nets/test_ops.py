"""Every operator against a loop over pixels in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jnas.nets.ops import OPERATORS, Noise, apply_operator, operator, operator_of
from jnas.spaces.cell import BLOCKING
from jnas.spaces.operators import Operator

CHANNELS = 4


def patches(x, size, stride, dilation, fill):
    """Yields (row, column, window [batch, size, size, channels]) of every output pixel."""
    pad = (size - 1) * dilation // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    reach = (size - 1) * dilation + 1
    for i, top in enumerate(range(0, padded.shape[1] - reach + 1, stride)):
        for j, left in enumerate(range(0, padded.shape[2] - reach + 1, stride)):
            yield i, j, padded[:, top : top + reach : dilation, left : left + reach : dilation]


def over_pixels(x, size, stride, dilation, fill, function):
    found = {(i, j): function(window) for i, j, window in patches(x, size, stride, dilation, fill)}
    rows, columns = max(i for i, _ in found) + 1, max(j for _, j in found) + 1
    return np.stack([np.stack([found[i, j] for j in range(columns)], 1) for i in range(rows)], 1)


def dense(x, kernel, stride=1):
    return over_pixels(x, kernel.shape[0], stride, 1, 0.0, lambda w: np.einsum("bijc,ijcd->bd", w, kernel))


def depthwise(x, kernel, stride, dilation):
    return over_pixels(x, kernel.shape[0], stride, dilation, 0.0, lambda w: np.einsum("bijc,ijc->bc", w, kernel))


def norm(x):
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)


def relu(x):
    return np.maximum(x, 0.0)


def separable(x, params, stride, dilation, repeats):
    for repeat in range(repeats):
        x = depthwise(relu(x), params[f"DepthwiseConv_{repeat}"]["kernel"], stride if repeat == 0 else 1, dilation)
        x = norm(dense(x, params[f"Conv_{repeat}"]["kernel"]))
    return x


def factorized(x, params):
    x = relu(x)
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))  # a row more than an even side ever reads
    halves = dense(x, params["Conv_0"]["kernel"], 2), dense(padded[:, 1:, 1:], params["Conv_1"]["kernel"], 2)
    return norm(np.concatenate([half[:, : -(-x.shape[1] // 2), : -(-x.shape[2] // 2)] for half in halves], -1))


def average(x, stride):
    counts = over_pixels(np.ones_like(x), 3, stride, 1, 0.0, lambda w: w.sum((1, 2)))
    return over_pixels(x, 3, stride, 1, 0.0, lambda w: w.sum((1, 2))) / counts


REFERENCE = {
    "none": lambda x, params, stride: np.zeros_like(x[:, ::stride, ::stride]),
    "skip_connect": lambda x, params, stride: x if stride == 1 else factorized(x, params),
    "max_pool_3x3": lambda x, params, stride: over_pixels(x, 3, stride, 1, -np.inf, lambda w: w.max((1, 2))),
    "avg_pool_3x3": lambda x, params, stride: average(x, stride),
    "sep_conv_3x3": lambda x, params, stride: separable(x, params, stride, 1, 2),
    "sep_conv_5x5": lambda x, params, stride: separable(x, params, stride, 1, 2),
    "dil_conv_3x3": lambda x, params, stride: separable(x, params, stride, 2, 1),
    "dil_conv_5x5": lambda x, params, stride: separable(x, params, stride, 2, 1),
    "nor_conv_1x1": lambda x, params, stride: norm(dense(relu(x), params["Conv_0"]["kernel"], stride)),
    "nor_conv_3x3": lambda x, params, stride: norm(dense(relu(x), params["Conv_0"]["kernel"], stride)),
}


def run(op, stride, x, **options):
    """Output in training mode, and the parameters, in float64."""
    module = operator(op, channels=CHANNELS, stride=stride, dtype=jnp.float64, **options)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.asarray(x), True))
    random = np.random.default_rng(2)
    variables = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), shapes)
    output, _ = jax.jit(lambda x: module.apply(variables, x, True, mutable=["batch_stats"]))(x)
    return np.asarray(output), variables.get("params", {})


@pytest.mark.parametrize(
    ("op", "stride", "side"),
    [(op, stride, side) for op in REFERENCE for stride, side in ((1, 6), (2, 7))] + [("skip_connect", 2, 6)],
)
def test_operator_equals_a_loop_over_pixels(x64, op, stride, side):
    x = np.random.default_rng(1).normal(size=(2, side, side + 2, CHANNELS))
    output, params = run(op, stride, x, affine=False)
    np.testing.assert_allclose(output, REFERENCE[op](x, params, stride), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("op", ["max_pool_3x3", "avg_pool_3x3"])
def test_pool_of_a_supernet_is_normalised_without_parameters(x64, op):
    x = np.random.default_rng(1).normal(size=(2, 4, 4, CHANNELS))
    output, params = run(op, 1, x, affine=True, normalise_pools=True)
    assert not params
    np.testing.assert_allclose(output, norm(REFERENCE[op](x, {}, 1)), rtol=1e-10, atol=1e-12)


def test_affine_batch_norms_have_scale_and_bias():
    shape = jax.ShapeDtypeStruct((1, 4, 4, CHANNELS), jnp.float32)
    for op, norms in (("sep_conv_3x3", 2), ("dil_conv_3x3", 1), ("nor_conv_3x3", 1), ("skip_connect", 1)):
        sizes = []
        for affine in (False, True):
            module = operator(op, channels=CHANNELS, stride=2, affine=affine)
            params = jax.eval_shape(lambda x, module=module: module.init(jax.random.key(0), x, True), shape)["params"]
            sizes.append(sum(leaf.size for leaf in jax.tree.leaves(params)))
        assert sizes[1] - sizes[0] == 2 * CHANNELS * norms, op


def test_noise_ignores_its_input_and_follows_the_key():
    x = jnp.full((4, 16, 16, 8), 7.0)
    key = jax.random.key(0)
    draw = lambda key: Noise(2).apply({}, x, True, rngs={"drop_path": key})
    noise = draw(key)
    assert noise.shape == (4, 8, 8, 8)
    assert abs(float(noise.mean())) < 4 / noise.size**0.5
    assert abs(float(noise.var()) - 1) < 4 * (2 / noise.size) ** 0.5
    np.testing.assert_array_equal(noise, draw(key))
    assert not np.array_equal(noise, draw(jax.random.key(1)))
    evaluated = Noise(2).apply({}, x, False)
    np.testing.assert_array_equal(evaluated, Noise(2).apply({}, 0 * x, False))
    assert abs(float(evaluated.var()) - 1) < 4 * (2 / evaluated.size) ** 0.5


@pytest.mark.parametrize("op", ["conv", "sep_conv_4x4", "sep_conv_3x5", "max_pool_5x5"])
def test_unknown_operators_are_named(op):
    with pytest.raises(ValueError, match=op):
        operator(op, channels=4)


# --- operators as values ---------------------------------------------------------------------------------------------


def test_built_in_operators_are_values_of_the_same_kind():
    assert set(REFERENCE) < set(OPERATORS)
    for name in (*REFERENCE, "noise", "sep_conv_7x7"):
        op = operator_of(name)
        assert op is OPERATORS[name]
        for stride in (1, 2):
            assert op.make(16, stride) == operator(name, channels=16, stride=stride)
    assert {name for name, op in OPERATORS.items() if not op.passes} == set(BLOCKING)


def test_what_an_operator_declares_is_true_of_its_module():
    x = jax.ShapeDtypeStruct((1, 4, 4, CHANNELS), jnp.float32)
    for name in (*REFERENCE, "noise"):
        op = OPERATORS[name]
        variables = jax.eval_shape(lambda x, op=op: op.make(CHANNELS, 2).init(jax.random.key(0), x, False), x)
        assert not (op.shared and (op.random or variables.get("params"))), name
        text = str(jax.make_jaxpr(lambda v, x, op=op: op.make(CHANNELS, 2).apply(v, x, False))(variables, x))
        assert ("random_bits" in text) == op.random, name
        assert op.loops != ("conv_general_dilated" in text), name


class Twice(nn.Module):
    """A module that is given another."""

    inner: nn.Module
    affine: bool = True

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(x.shape[-1])(self.inner(x)) if self.affine else self.inner(x)


def test_the_settings_that_an_operator_asks_for_reach_it_and_no_others():
    make = lambda channels, stride, *, affine=True: Twice(nn.Dense(channels), affine)
    for settings, wanted in (((), True), (("affine",), False)):
        assert operator(Operator("mine", make, settings), channels=2, affine=False).affine == wanted


def test_a_module_inside_an_operator_belongs_to_it():
    op = Operator("mine", lambda channels, stride: Twice(nn.Dense(channels)))

    class Parent(nn.Module):
        @nn.compact
        def __call__(self, x):
            for name in "ab":
                x = operator(op, channels=2, name=name)(x, True)
            return x

    params = jax.eval_shape(Parent().init, jax.random.key(0), jnp.ones((1, 2)))["params"]
    assert {name: set(inside) for name, inside in params.items()} == {name: {"inner", "Dense_0"} for name in "ab"}


def test_an_operator_is_held_to_its_shape_and_dtype():
    x = jnp.ones((2, 5, 5, 3), jnp.bfloat16)

    class Plain(nn.Module):
        channels: int
        stride: int

        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(self.channels, dtype=jnp.float32)(x)

    class Parent(nn.Module):
        made: int
        stride: int
        channels: int = 3
        affine: bool = True
        normalise_pools: bool = False
        dtype: Any = jnp.bfloat16

        @nn.compact
        def __call__(self, x):
            op = Operator("mine", lambda channels, stride: Plain(self.made, stride))
            return apply_operator(self, op, x, True, stride=self.stride, name="here")[0]

    apply = lambda *given: jax.eval_shape(lambda: Parent(*given).init_with_output(jax.random.key(0), x)[0])
    assert apply(3, 1).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"'here' makes \(2, 5, 5, 4\) of .*stride 1 return \(2, 5, 5, 3\)"):
        apply(4, 1)
    with pytest.raises(ValueError, match=r"stride 2 return \(2, 3, 3, 3\)"):
        apply(3, 2)


def test_an_own_operator_of_a_built_in_name_is_refused():
    own = Operator("sep_conv_3x3", Twice), Operator("mine", Twice)
    assert operator_of("mine", own) is own[1]
    assert operator_of("sep_conv_5x5", own) is OPERATORS["sep_conv_5x5"]
    with pytest.raises(ValueError, match="'sep_conv_3x3' is built in"):
        operator_of("sep_conv_3x3", own)
