"""`take` and `add_at` against ordinary indexing in float64, and what the derivative of a loop of them consists of."""

import functools
import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jnas.nets.reading import add_at, take

NUM, SHAPE = 5, (2, 3)
READS, WRITES = (0, 1, 0, 2, 3), (1, 2, 2, 3, 4)  # each source is complete when it is read


def plain_take(states, index):
    return states[index], states


def plain_add(states, index, row):
    return states.at[index].add(row)


def loop(take, add_at, weights, states):
    """A chain of edges: each reads a state and adds to a later one."""

    def body(states, edge):
        weight, at, to = edge
        row, states = take(states, at)
        return add_at(states, to, jnp.sin(weight * row)), None

    return lax.scan(body, states, (weights, jnp.array(READS), jnp.array(WRITES)))[0]


def height(function, *arguments):
    return sum(jnp.sum(jnp.sin(leaf) * (n + 1)) for n, leaf in enumerate(jax.tree.leaves(function(*arguments))))


def derivatives(function, arguments, direction):
    """The value, the gradient, and Hessian-vector products forward over reverse and reverse over reverse."""
    argnums = tuple(range(len(arguments)))
    gradient = jax.grad(functools.partial(height, function), argnums)
    values, forward = jax.jvp(gradient, arguments, direction)
    reverse = jax.vjp(gradient, *arguments)[1](direction)
    return function(*arguments), jax.jvp(function, arguments, direction)[1], values, forward, reverse


def random(*shapes):
    generator = np.random.default_rng(0)
    return tuple(jnp.asarray(generator.normal(size=shape)) for shape in shapes)


def assert_same(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), actual, expected)
    assert jax.tree.map(lambda leaf: leaf.dtype, actual) == jax.tree.map(lambda leaf: leaf.dtype, expected)


@pytest.fixture
def operands(x64):
    return random((NUM, *SHAPE), SHAPE, (len(READS),))


AT = jnp.array(2)
PAIRS = {
    "take": ((lambda states: take(states, AT)), (lambda states: plain_take(states, AT)), (0,)),
    # What is used of the two results decides which cotangents exist.
    "the row only": ((lambda states: take(states, AT)[0]), (lambda states: states[AT]), (0,)),
    "the states only": ((lambda states: take(states, AT)[1]), (lambda states: states), (0,)),
    "add_at": ((lambda states, row: add_at(states, AT, row)), (lambda states, row: plain_add(states, AT, row)), (0, 1)),
    "to constant states": (
        (lambda row: add_at(jnp.ones((NUM, *SHAPE)), AT, row)),
        (lambda row: plain_add(jnp.ones((NUM, *SHAPE)), AT, row)),
        (1,),
    ),
    "of a constant row": (
        (lambda states: add_at(states, AT, jnp.ones(SHAPE))),
        (lambda states: plain_add(states, AT, jnp.ones(SHAPE))),
        (0,),
    ),
    "and not read again": (
        (lambda states, row: add_at(states, AT, row)[0]),
        (lambda states, row: plain_add(states, AT, row)[0]),
        (0, 1),
    ),
    "in a loop": (
        (lambda states, weights: loop(take, add_at, weights, states)),
        (lambda states, weights: loop(plain_take, plain_add, weights, states)),
        (0, 2),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_derivatives_equal_those_of_ordinary_indexing(operands, name):
    ours, plain, used = PAIRS[name]
    arguments = tuple(operands[n] for n in used)
    direction = tuple(jnp.cos(argument) for argument in arguments)
    both = jax.jit(lambda *a: [derivatives(f, a, direction) for f in (ours, plain)])
    assert_same(*both(*arguments))


@pytest.mark.parametrize("axes", [(0, None, None), (2, None, None), (None, 0, None), (None, None, 0), (1, 1, 0)])
def test_vmap_over_each_operand_equals_a_loop(x64, axes):
    states, row = random((NUM, *SHAPE), SHAPE)
    many = [x if axis is None else jnp.stack((x, x + 1), axis) for x, axis in zip((states, row, AT), axes, strict=True)]

    def gradients(take, add_at, states, row, index):
        def curved(states, row):
            read, rest = take(states, index)
            return height(add_at, rest, index, jnp.cos(read) * row)

        value = jax.value_and_grad(curved, (0, 1))
        return jax.jvp(value, (states, row), (jnp.sin(states), jnp.sin(row)))

    both = jax.jit(
        lambda *a: [
            jax.vmap(functools.partial(gradients, *f), axes)(*a) for f in ((take, add_at), (plain_take, plain_add))
        ]
    )
    assert_same(*both(*many))


def test_vmap_of_the_derivative_of_a_vmap(x64):
    states, weights = random((NUM, *SHAPE), (2, len(READS)))

    def many(take, add_at):
        each = jax.vmap(lambda weights, states: loop(take, add_at, weights, states), (0, None))
        return jax.grad(functools.partial(height, each), (0, 1))(weights, states)

    assert_same(*jax.jit(lambda: (many(take, add_at), many(plain_take, plain_add)))())


# --- loops -----------------------------------------------------------------------------------------------------------

WIDE = (7, 8, 16)  # of a state, unlike anything else in the program


def gradient_of_loop(take, add_at):
    return jax.grad(lambda weights, states: jnp.sum(jnp.sin(loop(take, add_at, weights, states))), (0, 1))


def bodies(jaxpr, inside=False):
    """The equations inside of loops."""
    for equation in jaxpr.eqns:
        if inside:
            yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from bodies(inner, inside or equation.primitive.name == "scan")


def whole(take, add_at):
    """The primitives in the loops of a gradient that make an array as large as all states."""
    states = jnp.ones((NUM, *WIDE))
    jaxpr = jax.make_jaxpr(gradient_of_loop(take, add_at))(jnp.ones(len(READS)), states).jaxpr
    shape = states.shape
    return {e.primitive.name for e in bodies(jaxpr) if any(v.aval.shape == shape for v in e.outvars)}


def test_a_loop_makes_no_array_of_all_states_but_the_two_it_updates_in_place():
    assert whole(take, add_at) == {"take_state", "add_to_state"}
    assert whole(plain_take, plain_add) & {"add_any", "broadcast_in_dim"}  # what there would be otherwise


def test_the_compiled_loop_copies_no_states():
    """In loops on a CPU nothing makes an array of all states but updates of one row, or fusions named after them."""
    arguments = jnp.ones(len(READS)), jnp.ones((NUM, *WIDE))
    shape = re.escape(f"f32[{NUM},{','.join(map(str, WIDE))}]")
    text = jax.jit(gradient_of_loop(take, add_at)).lower(*arguments).compile().as_text()
    names = set(re.findall(r" while\(.*?body=%?([\w.-]+)", text))
    loops = [part for part in re.split(r"\n(?=\S)", text) if part.split(maxsplit=1)[0].lstrip("%") in names]
    assert len(loops) == 2  # forward and backward
    for lines in (loop.splitlines() for loop in loops):
        made = [line for line in lines if re.search(rf"= {shape}\S* (?!get-tuple-element|parameter)", line)]
        assert made
        assert all("dynamic-update-slice" in line.split("=")[0] for line in made), made


def test_sharded_batches_give_the_gradient_of_the_whole_batch():
    """The batch is the second axis of the states: under jit with a sharding, and inside shard_map."""
    script = """
        import jax, jax.numpy as jnp
        from jax.sharding import NamedSharding, PartitionSpec as P
        from jnas import nets, spaces
        from jnas.nets.reading import add_at, take

        mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        reads, writes = jnp.array((0, 1, 0)), jnp.array((1, 2, 2))
        weights, states = jnp.arange(1.0, 4.0), jax.random.normal(jax.random.key(0), (3, 8, 5))

        def loss(weights, states):
            def body(states, edge):
                row, states = take(states, edge[1])
                return add_at(states, edge[2], jnp.sin(edge[0] * row)), None

            return jnp.mean(jnp.sin(jax.lax.scan(body, states, (weights, reads, writes))[0]))

        def equal(a, b):
            return all(jnp.allclose(x, y, atol=1e-5) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))

        def product(weights, states):
            return jax.jvp(jax.grad(loss, (0, 1)), (weights, states), (jnp.ones(3), states))

        expected = jax.jit(product)(weights, states)
        along = NamedSharding(mesh, P(None, "data"))
        sharded = jax.jit(product, in_shardings=(None, along))
        assert "all-gather(" not in sharded.lower(weights, states).compile().as_text(), "the batch is gathered"
        assert equal(sharded(weights, states), expected)
        mean = jax.grad(lambda *a: jax.lax.pmean(loss(*a), "data"), (0, 1))
        spec = (P(), P(None, "data"))
        mapped = jax.jit(jax.shard_map(mean, mesh=mesh, in_specs=spec, out_specs=spec))(weights, states)
        assert equal(mapped, expected[0]), (mapped, expected[0])

        ops = ("none", "max_pool_3x3", "skip_connect", "nor_conv_1x1")
        space = spaces.CellSpace("small", ("cell",), 1, 2, ops, ((ops,) * 3,), None, "last")
        net = nets.Network(space, ("cell",), 2, 2, stem_multiplier=1, project_inputs=False, edge_strategy="scan")
        params, stats = nets.initialise(net, jax.random.key(0), (4, 4, 1))
        mix, image = jax.random.normal(jax.random.key(1), (3, 4)), jax.random.normal(jax.random.key(2), (8, 4, 4, 1))

        def gradient(params, mix, image):
            def loss(params, mix):
                variables = {"params": params, "batch_stats": stats}
                logits, changed = net.apply(variables, image, {"cell": mix}, train=True, mutable=["batch_stats"])
                return jnp.mean(jnp.sin(jnp.arange(8.0)[:, None] * logits.main)), changed

            return jax.grad(loss, (0, 1), has_aux=True)(params, mix)

        sharded = jax.jit(gradient, in_shardings=(None, None, NamedSharding(mesh, P("data"))))
        assert equal(sharded(params, mix, image), jax.jit(gradient)(params, mix, image))
    """
    code = "import jax; jax.config.update('jax_num_cpu_devices', 4)\n" + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
