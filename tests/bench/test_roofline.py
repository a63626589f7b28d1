"""Operations counted by hand, and as the compiler counts them where it can: in programs without loops."""

import jax
import jax.numpy as jnp
import pytest

from jnas.bench.roofline import Ceilings, Work, count
from jnas.nets.kernels.convolution import conv2d, depthwise2d
from jnas.nets.kernels.pooling import avg_pool3

A, B = jnp.ones((8, 16)), jnp.ones((16, 4))
DOT = 2 * 8 * 16 * 4
SQUARE = jnp.ones((16, 16))
IMAGES, KERNEL, TAPS = jnp.ones((2, 6, 6, 3)), jnp.ones((3, 3, 3, 5)), jnp.ones((3, 3, 3))
MET = (3 * 6 - 2) ** 2  # pairs of pixel and tap that meet in 6 x 6 images padded by 1
CONVOLUTION = 2 * 2 * MET * 3 * 5


def flops(function, *operands, trips=(1,)):
    return count(jax.make_jaxpr(function)(*operands), trips=trips).flops


def times(function, number):
    """Applies a function of one argument some times, in a scan."""
    return lambda x: jax.lax.scan(lambda carry, _: (function(carry), None), x, length=number)[0]


def test_one_dot_and_its_bytes():
    work = count(jax.make_jaxpr(jnp.dot)(A, B))
    assert work == Work(DOT, 4 * (8 * 16 + 16 * 4 + 8 * 4))
    batched = flops(lambda a, b: jnp.einsum("nij,njk->nik", a, b), jnp.ones((3, 2, 5)), jnp.ones((3, 5, 7)))
    assert batched == 2 * 3 * 2 * 5 * 7


def test_a_scan_of_three_dots():
    assert flops(times(lambda x: x @ SQUARE, 3), A) == 3 * 2 * 8 * 16 * 16
    nested = times(times(lambda x: x @ SQUARE, 3), 2)
    assert flops(nested, A) == 6 * 2 * 8 * 16 * 16


@pytest.mark.parametrize("stride", [1, 2])
def test_dense_convolutions_with_their_gradients(stride):
    met = MET if stride == 1 else (3 * 3 - 1) ** 2
    forward = lambda x, w: conv2d(x, w, stride=stride)
    assert flops(forward, IMAGES, KERNEL) == 2 * 2 * met * 3 * 5
    loss = lambda x, w: jnp.sum(jnp.square(forward(x, w)))
    assert flops(jax.grad(loss, (0, 1)), IMAGES, KERNEL) == 3 * 2 * 2 * met * 3 * 5
    assert flops(lambda x, k: jnp.square(conv2d(x, k)), IMAGES, jnp.ones((1, 1, 3, 5))) == 2 * 2 * 36 * 3 * 5


def test_depthwise_convolutions_with_their_gradients():
    assert flops(depthwise2d, IMAGES, TAPS) == 2 * 2 * MET * 3
    loss = lambda x, w: jnp.sum(jnp.square(depthwise2d(x, w)))
    assert flops(jax.grad(loss, (0, 1)), IMAGES, TAPS) == 3 * 2 * 2 * MET * 3


def test_stacks_of_convolutions():
    kernels = jnp.ones((4, *KERNEL.shape))
    images = jnp.ones((4, *IMAGES.shape))
    for axes, operands in ((0, (images, kernels)), ((None, 0), (IMAGES, kernels)), ((0, None), (images, KERNEL))):
        assert flops(jax.vmap(conv2d, axes), *operands) == 4 * CONVOLUTION
    loss = lambda x, w: jnp.sum(jnp.square(conv2d(x, w)))
    assert flops(jax.vmap(jax.grad(loss, (0, 1))), images, kernels) == 4 * 3 * CONVOLUTION


def test_pooling():
    assert flops(avg_pool3, IMAGES) == 2 * MET * 3


def test_results_that_nothing_reads_cost_nothing():
    assert flops(lambda a, b: (a @ b, a.sum())[1], A, B) == 0
    inside = lambda x, n: jax.lax.fori_loop(0, n, lambda _, y: (y @ SQUARE, y + 1)[1], x)
    assert flops(inside, A, 3) == 0


def test_wrappings_and_branches():
    step = jax.checkpoint(jax.jit(lambda a, b: jnp.sin(a @ b)))
    assert flops(step, A, B) == DOT
    loss = lambda a: jnp.sum(step(a, B))
    assert flops(jax.grad(loss), A) == 2 * DOT  # once again for the argument of the sine, and once for the gradient
    branches = lambda p, a: jax.lax.cond(p, lambda: a @ SQUARE, lambda: a @ SQUARE @ SQUARE)
    assert flops(branches, True, A) == 2 * 2 * 8 * 16 * 16


def test_loops_whose_trips_only_the_run_decides():
    inner = lambda x, n: jax.lax.fori_loop(0, n, lambda _, y: y @ SQUARE, x)
    outer = lambda x, n: jax.lax.fori_loop(0, n, lambda _, y: inner(y, n), x)
    once = 2 * 8 * 16 * 16
    program = jax.make_jaxpr(outer)(A, 3)
    work = count(program, trips=(2, 5))
    assert (work.flops, work.assumed_loops) == (10 * once, 2)
    assert count(program, trips=(3,)).flops == 9 * once
    with pytest.raises(ValueError, match="trips is empty"):
        count(program, trips=())


def test_an_unknown_operation_on_windows_is_named():
    from jnas.nets.kernels.primitives import platform_primitive
    from jnas.nets.kernels.window import Geometry

    new = platform_primitive("new_pool", lambda x, geometry: x.shape, lambda x, geometry: x, lambda x, geometry: x)
    work = count(jax.make_jaxpr(lambda x: new.bind(x, geometry=Geometry(3, 1, 1, 6, 6)))(IMAGES))
    assert work.uncounted == {"new_pool"}


def test_the_compiler_counts_the_same_without_loops():
    """Strided, dilated, grouped and transposed convolutions and dots: to the operations that are not counted."""

    def program(x, w, g, a):
        lax = jax.lax.conv_general_dilated
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax(x, w, (2, 2), "SAME", dimension_numbers=numbers)
        z = lax(x, g, (1, 1), [(2, 2), (2, 2)], rhs_dilation=(2, 2), feature_group_count=3, dimension_numbers=numbers)
        t = lax(y, w.swapaxes(2, 3), (1, 1), [(1, 2), (1, 2)], lhs_dilation=(2, 2), dimension_numbers=numbers)
        return y, z, t, a @ a

    operands = IMAGES, KERNEL, TAPS[:, :, None], jnp.ones((32, 32))
    analysis = jax.jit(program).lower(*operands).compile().cost_analysis()
    assert analysis is not None
    assert flops(program, *operands) == pytest.approx(analysis["flops"], rel=1e-3)


def test_least_time():
    ceilings = Ceilings(flops_per_s=100.0, bytes_per_s=10.0)
    assert ceilings.least_seconds(Work(300.0, 20.0)) == 3.0
    assert ceilings.least_seconds(Work(100.0, 20.0)) == 2.0
