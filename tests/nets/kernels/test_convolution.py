"""Every derivative of the convolutions equals the one that JAX derives from an ordinary lax convolution."""

import re
import subprocess
import sys
import textwrap
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jnas.nets.kernels.convolution import conv2d, depthwise2d

CANONICAL = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
DENSE = [  # kernel, stride, dilation, (height, width)
    (1, 1, 1, (4, 3)),
    (1, 2, 1, (7, 6)),
    (3, 1, 1, (7, 7)),
    (3, 1, 1, (6, 8)),
    (3, 2, 1, (7, 8)),
    (5, 1, 2, (5, 8)),
    (5, 2, 1, (4, 3)),
    (3, 3, 2, (8, 7)),
]
DEPTHWISE = [
    (1, 2, 1, (5, 4)),
    (3, 1, 1, (7, 6)),
    (3, 2, 1, (7, 8)),
    (3, 1, 2, (4, 7)),
    (3, 2, 2, (8, 7)),
    (5, 1, 1, (6, 7)),
    (5, 2, 1, (7, 8)),
    (5, 1, 2, (7, 3)),
    (5, 2, 2, (6, 5)),
]


def by_lax(x, kernel, *, stride, dilation):
    depthwise = kernel.ndim == 3
    padding = (kernel.shape[0] - 1) * dilation // 2
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None] if depthwise else kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        feature_group_count=x.shape[3] if depthwise else 1,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def operands(depthwise, size, shape, dtype=jnp.float64):
    rng = np.random.default_rng(0)
    kernel = (size, size, 3) if depthwise else (size, size, 3, 4)
    return [jnp.asarray(rng.normal(size=s), dtype) for s in 2 * ((2, *shape, 3), kernel)]


def loss(convolve, x, kernel):
    return jnp.sum(jnp.sin(convolve(x, kernel)))


def gradient(convolve):
    return jax.grad(partial(loss, convolve), argnums=(0, 1))


def derivatives(convolve, x, kernel, dx, dkernel):
    """The value, the gradient, and Hessian-vector products forward over reverse and reverse over reverse."""
    gradients, forward = jax.jvp(gradient(convolve), (x, kernel), (dx, dkernel))
    reverse = jax.vjp(gradient(convolve), x, kernel)[1]((dx, dkernel))
    return convolve(x, kernel), gradients, forward, reverse


def assert_close(actual, expected, tolerance=1e-12):
    def check(a, b):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(jnp.abs(b).max())))

    jax.tree.map(check, actual, expected)


@pytest.mark.parametrize(
    ("depthwise", "size", "stride", "dilation", "shape"),
    [(False, *case) for case in DENSE] + [(True, *case) for case in DEPTHWISE],
)
def test_value_and_derivatives_equal_those_of_lax(x64, depthwise, size, stride, dilation, shape):
    both = (depthwise2d if depthwise else conv2d), by_lax
    arguments = operands(depthwise, size, shape)
    ours, expected = jax.jit(lambda *a: [derivatives(partial(f, stride=stride, dilation=dilation), *a) for f in both])(
        *arguments
    )
    assert_close(ours, expected)


@pytest.mark.parametrize("depthwise", [False, True])
def test_vmap_over_images_kernels_and_both_equals_a_loop(x64, depthwise):
    convolve = partial(depthwise2d if depthwise else conv2d, stride=2, dilation=1)
    x, kernel, dx, dkernel = operands(depthwise, 3, (5, 6))
    xs, kernels = jnp.stack((x, dx, x - dx), 1), jnp.stack((kernel, dkernel, kernel + dkernel))

    def hvp(x, kernel):
        return jax.jvp(gradient(convolve), (x, kernel), (dx, dkernel))

    mapped = {
        "images": jax.vmap(hvp, (1, None)),
        "kernels": jax.vmap(hvp, (None, 0)),
        "pairs": jax.vmap(hvp, (1, 0)),
        "grid": jax.vmap(jax.vmap(hvp, (None, 0)), (1, None)),
        "grid of pairs": jax.vmap(lambda x: jax.vmap(hvp, (None, 0))(x, kernels + x.mean()), 1),
    }
    single = jax.jit(hvp)
    x_of, kernel_of = [xs[:, i] for i in range(3)], list(kernels)

    def stack(items):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *items)

    expected = {
        "images": stack([single(a, kernel) for a in x_of]),
        "kernels": stack([single(x, b) for b in kernel_of]),
        "pairs": stack([single(a, b) for a, b in zip(x_of, kernel_of, strict=True)]),
        "grid": stack([stack([single(a, b) for b in kernel_of]) for a in x_of]),
        "grid of pairs": stack([stack([single(a, b + a.mean()) for b in kernel_of]) for a in x_of]),
    }
    arguments = {
        "images": (xs, kernel),
        "kernels": (x, kernels),
        "pairs": (xs, kernels),
        "grid": (xs, kernels),
        "grid of pairs": (xs,),
    }
    actual = jax.jit(lambda arguments: {name: f(*arguments[name]) for name, f in mapped.items()})(arguments)
    assert_close(actual, expected)


@pytest.mark.parametrize("convolve", [conv2d, depthwise2d])
def test_scan_checkpoint_and_linearize_change_nothing(x64, convolve):
    x, kernel, _, direction = operands(convolve is depthwise2d, 3, (4, 4))
    grad = jax.grad(partial(loss, convolve), argnums=1)

    @jax.jit
    def routes(x, kernel):
        plain = grad(x, kernel)
        checkpointed = jax.grad(jax.checkpoint(partial(loss, convolve)), argnums=1)(x, kernel)
        scanned = lax.scan(lambda carry, _: (carry, grad(carry, kernel)), x, length=2)[1]
        linear = jax.linearize(partial(grad, x), kernel)[1](direction)
        return plain, checkpointed, scanned, linear, jax.jvp(partial(grad, x), (kernel,), (direction,))[1]

    plain, checkpointed, scanned, linear, tangent = routes(x, kernel)
    assert_close((checkpointed, *scanned, linear), (plain, plain, plain, tangent))


def lowered(function, arguments, *platforms):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=platforms).as_text()


def hvp_of(convolve):
    def hvp(x, kernel, dx, dkernel):
        return jax.jvp(gradient(convolve), (x, kernel), (dx, dkernel))[1]

    return hvp


@pytest.mark.parametrize("convolve", [conv2d, depthwise2d])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_get_the_convolutions_that_jax_itself_would_write(convolve, platform):
    arguments = operands(convolve is depthwise2d, 3, (8, 8), jnp.float32)

    def convolutions(f):
        hvp = hvp_of(partial(f, stride=2, dilation=1))
        text = lowered(hvp, arguments, platform)
        assert "custom_call" not in text
        return set(re.findall(r"stablehlo\.convolution\(.*?\) (dim_numbers = .*?) : ", text))

    ours = convolutions(convolve)
    assert ours == convolutions(by_lax)
    assert len(ours) == 3  # y, dx and dw


@pytest.mark.parametrize("stride", [1, 2])
def test_on_cpu_every_dense_convolution_is_a_canonical_forward_one(stride):
    """Other dimension numbers, as in JAX's own transposes, leave XLA's fast path inside a loop."""
    hvp = hvp_of(partial(conv2d, stride=stride))
    text = lowered(hvp, operands(False, 3, (8, 8), jnp.float32), "cpu")
    numbers = re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", text)
    assert len(numbers) >= 3
    assert set(numbers) == {CANONICAL}


def test_on_cpu_no_depthwise_convolution_is_left():
    text = lowered(hvp_of(depthwise2d), operands(True, 3, (8, 8), jnp.float32), "cpu")
    assert "convolution" not in text


def test_one_program_lowers_for_all_platforms_at_once():
    text = lowered(hvp_of(depthwise2d), operands(True, 3, (4, 4), jnp.float32), "cpu", "cuda", "tpu")
    assert "stablehlo.convolution" in text
    assert len(re.findall(r"stablehlo\.case", text)) >= 3  # y, dx and dw choose by platform


@pytest.mark.parametrize("convolve", [conv2d, depthwise2d])
def test_bfloat16_is_kept_and_accurate(convolve):
    x, kernel, *_ = operands(convolve is depthwise2d, 3, (6, 6), jnp.bfloat16)
    grad = jax.jit(jax.grad(lambda x, w: jnp.sum(jnp.sin(convolve(x, w).astype(jnp.float32))), argnums=(0, 1)))
    half, single = grad(x, kernel), grad(x.astype(jnp.float32), kernel.astype(jnp.float32))
    for a, b in zip(half, single, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=0, atol=0.03 * float(jnp.abs(b).max()))


@pytest.mark.parametrize(("size", "outputs"), [(28, 14), (14, 7), (7, 4)])
def test_shapes_are_known_without_computing(size, outputs):
    image = jax.ShapeDtypeStruct((2, size, size, 8), jnp.float32)
    dense, depthwise = jax.ShapeDtypeStruct((3, 3, 8, 5), jnp.float32), jax.ShapeDtypeStruct((5, 5, 8), jnp.float32)
    assert jax.eval_shape(partial(conv2d, stride=2), image, dense).shape == (2, outputs, outputs, 5)
    assert jax.eval_shape(partial(depthwise2d, stride=2), image, depthwise).shape == (2, outputs, outputs, 8)


def test_sharded_batches_give_the_gradient_of_the_whole_batch():
    """Under jit with a sharding over the batch, and inside shard_map with its check of replication on and off."""
    script = """
        import jax, jax.numpy as jnp
        from jax.sharding import NamedSharding, PartitionSpec as P
        from jnas.nets.kernels.convolution import conv2d, depthwise2d
        from jnas.nets.kernels.pooling import avg_pool3, max_pool3

        mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        keys = jax.random.split(jax.random.key(0), 3)
        x, w, d = (jax.random.normal(k, s) for k, s in zip(keys, ((4, 4, 4, 2), (3, 3, 2, 2), (3, 3, 2))))

        def loss(w, d, x):
            return jnp.mean(jnp.sin(avg_pool3(max_pool3(depthwise2d(conv2d(x, w), d)))))

        def shard_map(f, check):
            return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=P(), check_vma=check))

        gradient = jax.grad(loss, (0, 1))
        sharded = jax.jit(gradient, in_shardings=(None, None, NamedSharding(mesh, P("data"))))
        program = sharded.lower(w, d, x).compile().as_text()
        assert "all-gather(" not in program, "the batch is gathered"
        mean = jax.grad(lambda *a: jax.lax.pmean(loss(*a), "data"), (0, 1))
        local = lambda *a: jax.lax.pmean(gradient(*a), "data")
        expected = jax.jit(gradient)(w, d, x)
        for f in (sharded, shard_map(mean, True), shard_map(local, False)):
            assert all(jnp.allclose(a, b, atol=1e-6) for a, b in zip(f(w, d, x), expected)), f
    """
    code = "import jax; jax.config.update('jax_num_cpu_devices', 2)\n" + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        (lambda: conv2d(jnp.ones((4, 4, 3)), jnp.ones((3, 3, 3, 2))), "batch, height, width, channels"),
        (lambda: conv2d(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3))), "channels, features"),
        (lambda: conv2d(jnp.ones((1, 4, 4, 3)), jnp.ones((2, 2, 3, 2))), "odd size"),
        (lambda: conv2d(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 2, 2))), "is for 2 channels"),
        (lambda: conv2d(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 2), jnp.bfloat16)), "cast"),
        (lambda: conv2d(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 2)), stride=0), "stride=0"),
        (lambda: depthwise2d(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 2))), "is for 2 channels"),
        (lambda: depthwise2d(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 5, 3))), "square"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, remedy):
    with pytest.raises(ValueError, match=remedy):
        call()
